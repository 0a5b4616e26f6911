"""ONNX files: written, run, and their weights read."""

import contextlib

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.exporting import runtime


def write(model, path, quantize):
    # Not Keras 3's "onnx" exporter: it leaves patches in NumPy and tf2onnx behind.
    onnx, tf2onnx = (runtime.imported(module, "onnx") for module in ("onnx", "tf2onnx.convert"))
    function, signature = keras_compat.inference(model), [keras_compat.call_signature(model)]
    with contextlib.suppress(Exception), _inner_functions_inlined():  # if not, tf2onnx traces it as it is
        function.get_concrete_function()
    content, _ = tf2onnx.from_function(function, signature, custom_op_handlers={"Erfc": (_write_erfc, [])})
    onnx.checker.check_model(content)  # tf2onnx leaves what it cannot convert as it is
    onnx.save(content, path)


@contextlib.contextmanager
def _inner_functions_inlined():
    """For tf2onnx, which cannot convert compiled functions such as Keras makes of grouped convolutions."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _write_erfc(graph, node, name, arguments):
    """`1 - Erf(x)`: ONNX has no Erfc, with which TensorFlow writes the exact GELU."""
    from onnx import helper

    kind, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, dtypes=[kind], shapes=[shape])
    one = graph.make_const(f"{name}/one", np.ones((), helper.tensor_dtype_to_np_dtype(kind)))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, dtypes=[kind], shapes=[shape])


_ONNX_TYPES = {"float": "float32", "double": "float64", "string": "object"}  # others are named as in NumPy


def load(path, threads):
    ort = runtime.imported("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = []
    for entry in session.get_inputs():
        shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        inputs.append(runtime.Input(entry.name, shape, np.dtype(_ONNX_TYPES.get(kind, kind))))

    def run(arrays):
        return session.run(None, {entry.name: array for entry, array in zip(inputs, arrays)})

    return runtime.Runtime("onnx", inputs, run)


def weights(path):
    try:
        import onnx
    except ImportError:
        return None
    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
