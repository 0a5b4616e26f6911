"""LiteRT (TensorFlow Lite) files: how to write and run them, and how to read their weights."""

import pathlib
import tempfile

import numpy as np

from tfap import keras_compat
from tfap.exporting import calibration, runtime, sparse_tflite
from tfap.exporting.calibration import Settings
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.keras_compat.types import Model


def write(model: Model, path: pathlib.Path, settings: Settings, batch_size: int | None) -> None:
    """Writes a model to a LiteRT file.

    Args:
        model: A built model of either Keras.
        path: Path of the file.
        settings: The `Settings`: how to quantize, and whether kernels are sparse.
        batch_size: Integer. Batch size of the inputs. None for any.
    """
    # Like Keras 3's "litert" exporter, which also allows TensorFlow ops, but LiteRT cannot run those.
    names = [spec.name for spec in keras_compat.inputs_of(model)]
    with tempfile.TemporaryDirectory() as folder:
        keras_compat.write_saved_model(model, folder, batch_size)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        content = calibration.configure(converter, settings, names, batch_size).convert()
    if settings.quantize in calibration.CALIBRATED:
        content = calibration.with_scales_of_zero_channels(content)
    if settings.sparse:
        content = sparse_tflite.sparsified(content)
    path.write_bytes(_in_model_order(content, names))


def _in_model_order(content, inputs):
    """Restores the order of inputs and outputs, which the converter sorts by name.

    The code that runs the file on a device accesses them by position.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    content = bytearray(content)
    file = schema.Model.GetRootAs(content, 0)
    graph, signature = file.Subgraphs(0), file.SignatureDefs(0)
    _reorder(graph.InputsAsNumpy(), signature.InputsLength(), signature.Inputs, lambda names: inputs)
    _reorder(graph.OutputsAsNumpy(), signature.OutputsLength(), signature.Outputs, _output_order)
    return content


def _reorder(tensor_indices, length, signature_entry, order):
    """Sorts tensor indices, which are a view of the file's bytes, by the names in the signature."""
    entries = [signature_entry(position) for position in range(length)]
    index_of = {entry.Name().decode(): entry.TensorIndex() for entry in entries}
    if len(index_of) > 1:
        tensor_indices[:] = [index_of[name] for name in order(list(index_of))]


def _output_order(names):
    numbered = [f"output_{index}" for index in range(len(names))]
    return numbered if set(numbered) == set(names) else sorted(names)  # Keras sorts dicts by key


def load(path: pathlib.Path, threads: int | None) -> runtime.Runtime:
    """Loads a LiteRT file in the LiteRT interpreter.

    Quantized inputs and outputs are those of int8, uint8 or int16 with a scale. The runtime takes and returns
    real values for them.

    Args:
        path: Path of the file.
        threads: Integer. Threads per operation. None for the default of LiteRT.

    Returns:
        A `Runtime`.

    Raises:
        ImportError: If ai-edge-litert is not installed. The message has the pip command.
    """
    interpreter = runtime.imported("ai_edge_litert.interpreter", "tflite").Interpreter(
        str(path), num_threads=threads
    )
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    input_quantizations, output_quantizations = map(_quantizations, (inputs, outputs))
    names = _input_names(interpreter)
    allocated_shapes: list[tuple[int, ...] | None] = [None] * len(inputs)

    def run(arrays):
        shapes = [array.shape for array in arrays]
        if allocated_shapes != shapes:
            allocated_shapes[:] = shapes
            for detail, shape in zip(inputs, shapes):
                interpreter.resize_tensor_input(detail["index"], shape)
            interpreter.allocate_tensors()
        for detail, array, quantization in zip(inputs, arrays, input_quantizations):
            interpreter.set_tensor(
                detail["index"], array if quantization is None else quantization.quantize(array)
            )
        interpreter.reset_all_variables()  # a fused LSTM begins with the state that the last call left
        interpreter.invoke()
        arrays = [interpreter.get_tensor(detail["index"]) for detail in outputs]
        return [
            array if quantization is None else quantization.dequantize(array)
            for array, quantization in zip(arrays, output_quantizations)
        ]

    entries = [
        runtime.Input(
            names.get(detail["index"], detail["name"]),
            tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
            np.dtype(detail["dtype"] if quantization is None else "float32"),
            quantization,
        )
        for detail, quantization in zip(inputs, input_quantizations)
    ]
    return runtime.Runtime("tflite", entries, run)


def _quantizations(details):
    """Returns the `Quantization` of each tensor, or None if its integers are not quantized real values."""
    found = []
    for detail in details:
        scale, zero_point = detail["quantization"]
        dtype = np.dtype(detail["dtype"])
        quantized = bool(scale) and dtype in (np.int8, np.uint8, np.int16)
        found.append(runtime.Quantization(float(scale), int(zero_point), dtype) if quantized else None)
    return found


def _input_names(interpreter):
    """Returns `{tensor index: input name}` of the signature, because tensors have TensorFlow's names."""
    if not interpreter.get_signature_list():
        return {}
    details = interpreter.get_signature_runner().get_input_details()
    return {detail["index"]: name for name, detail in details.items()}


def weights(path: pathlib.Path) -> list[np.ndarray] | None:
    """Reads the float and int8 weights of a LiteRT file.

    Scalars are left out: they are numbers that operations take, such as the minimum of a ReLU.

    Returns:
        List of NumPy arrays of one dimension. None if TensorFlow is not installed.
    """
    if not keras_compat.is_installed("tensorflow"):
        return None
    from tensorflow.lite.python import schema_py_generated as schema

    dtypes = {schema.TensorType.FLOAT32: "float32", schema.TensorType.FLOAT16: "float16"}
    dtypes[schema.TensorType.INT8] = "int8"
    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    arrays = {}  # by buffer, because tensors may share one
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            is_constant = buffer.DataLength() > 0  # tensors that the model computes have an empty buffer
            if is_constant and tensor.ShapeLength() and tensor.Type() in dtypes:
                arrays[tensor.Buffer()] = buffer.DataAsNumpy().view(dtypes[tensor.Type()])
    return list(arrays.values())
