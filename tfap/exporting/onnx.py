"""ONNX files: how to write and run them, and how to read their weights."""

import contextlib
import pathlib
import threading

import numpy as np

from tfap import keras_compat
from tfap.exporting import onnx_calibration, runtime
from tfap.exporting.calibration import Settings
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.keras_compat.types import Model

_DTYPES = {"float": "float32", "double": "float64", "string": "object"}  # others have NumPy's names
_eager_lock = threading.Lock()  # two threads at once would restore each other's setting


def write(model: Model, path: pathlib.Path, settings: Settings, batch_size: int | None) -> None:
    """Writes a model to an ONNX file.

    Args:
        model: A built model of either Keras.
        path: Path of the file.
        settings: The `Settings`. With `quantize="int8"` weights and activations are int8.
        batch_size: Integer. Batch size of the inputs. None for any.

    Raises:
        ImportError: If onnx or tf2onnx is not installed, or onnxruntime, which quantizes. The message has the
            pip command.
    """
    # Not with Keras 3's "onnx" exporter, because it leaves NumPy and tf2onnx patched.
    onnx, tf2onnx = (runtime.imported(module, "onnx") for module in ("onnx", "tf2onnx.convert"))
    function = keras_compat.tensorflow_function(model, batch_size)
    signature = [keras_compat.tensor_specs(model, batch_size)]
    with contextlib.suppress(Exception), _inlined_functions():  # if this fails, tf2onnx traces with calls
        function.get_concrete_function()
    content, _ = tf2onnx.from_function(function, signature, custom_op_handlers={"Erfc": (_write_erfc, [])})
    _embed_captured(content, function.get_concrete_function(*signature))
    onnx.checker.check_model(content)  # tf2onnx does not raise for ops that it cannot convert
    if settings.quantize is None:
        onnx.save(content, path)
    else:
        onnx_calibration.quantize(content, path, settings, batch_size)


def _embed_captured(content, function):
    """Stores the arrays that a function captured, such as the means of Normalization layers, in the model.

    tf2onnx takes them for inputs.

    Args:
        content: The ONNX model. Changed.
        function: The concrete TensorFlow function of which it was made.
    """
    from onnx import numpy_helper

    values, used = function.captured_inputs, {name for node in content.graph.node for name in node.input}
    captured = {tensor.name: value for tensor, value in zip(function.inputs[-len(values) :], values)}
    for entry in [entry for entry in content.graph.input if entry.name in captured]:
        content.graph.input.remove(entry)
        if entry.name in used:
            array = captured[entry.name].numpy()
            content.graph.initializer.append(numpy_helper.from_array(array, entry.name))


@contextlib.contextmanager
def _inlined_functions():
    """Inlines compiled functions, such as Keras's grouped convolutions, which tf2onnx cannot convert."""
    with _eager_lock:
        saved = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(saved)


def _write_erfc(graph, node, name, arguments):
    """Writes Erfc, which TensorFlow uses for the exact GELU and ONNX does not have, as `1 - Erf(x)`."""
    from onnx import helper

    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(name)
    types = {"dtypes": [dtype], "shapes": [shape]}
    erf = graph.make_node("Erf", node.input, **types)
    one = graph.make_const(f"{name}/one", np.ones((), helper.tensor_dtype_to_np_dtype(dtype)))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, **types)


def load(path: pathlib.Path, threads: int | None) -> runtime.Runtime:
    """Loads an ONNX file in ONNX Runtime.

    Args:
        path: Path of the file.
        threads: Integer. Threads per operation. None for the default of ONNX Runtime.

    Returns:
        A `Runtime`.

    Raises:
        ImportError: If onnxruntime is not installed. The message has the pip command.
    """
    ort = runtime.imported("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = []
    for entry in session.get_inputs():
        shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
        element_type = entry.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype(_DTYPES.get(element_type, element_type))
        inputs.append(runtime.Input(entry.name, shape, dtype))

    def run(arrays):
        return session.run(None, {entry.name: array for entry, array in zip(inputs, arrays)})

    return runtime.Runtime("onnx", inputs, run)


def weights(path: pathlib.Path) -> list[np.ndarray] | None:
    """Reads the weights of an ONNX file, without scalars, which are numbers that operations take.

    Returns:
        List of NumPy arrays, or None if onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        return None
    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if tensor.dims]
