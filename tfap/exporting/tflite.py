"""LiteRT (TensorFlow Lite) files: written, run, and their weights read."""

import tempfile

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.exporting import runtime


def write(model, path, quantize):
    # Keras 3's "litert" exporter takes the same way, but allows TensorFlow's ops, which LiteRT cannot run.
    with tempfile.TemporaryDirectory() as folder:
        keras_compat.write_saved_model(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if quantize == "dynamic_range":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = converter.convert()
    names = [spec.name for spec in tf.nest.flatten(keras_compat.call_signature(model))]
    path.write_bytes(_in_model_order(content, names))


def _in_model_order(content, inputs):
    """The converter sorts inputs and outputs by name; a phone's code feeds them by position."""
    from tensorflow.lite.python import schema_py_generated as schema

    content = bytearray(content)
    file = schema.Model.GetRootAs(content, 0)
    graph, signature = file.Subgraphs(0), file.SignatureDefs(0)
    _reorder(graph.InputsAsNumpy(), signature.InputsLength(), signature.Inputs, lambda names: inputs)
    _reorder(graph.OutputsAsNumpy(), signature.OutputsLength(), signature.Outputs, _output_order)
    return content


def _reorder(tensors, length, entry, order):
    """Writes the tensors' indices, which lie in the file's bytes, in the order of the signature's names."""
    entries = [entry(index) for index in range(length)]
    index_of = {entry.Name().decode(): entry.TensorIndex() for entry in entries}
    if len(index_of) > 1:
        tensors[:] = [index_of[name] for name in order(list(index_of))]


def _output_order(names):
    numbered = [f"output_{index}" for index in range(len(names))]
    return numbered if set(numbered) == set(names) else sorted(names)  # a dict goes by its keys


def load(path, threads):
    interpreter = runtime.imported("ai_edge_litert.interpreter", "tflite").Interpreter(
        str(path), num_threads=threads
    )
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    names = _input_names(interpreter)
    shapes = [None] * len(inputs)

    def run(arrays):
        if shapes != [array.shape for array in arrays]:
            shapes[:] = [array.shape for array in arrays]
            for detail, shape in zip(inputs, shapes):
                interpreter.resize_tensor_input(detail["index"], shape)
            interpreter.allocate_tensors()
        for detail, array in zip(inputs, arrays):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in outputs]

    entries = [
        runtime.Input(
            names.get(detail["index"], detail["name"]),
            tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
            np.dtype(detail["dtype"]),
        )
        for detail in inputs
    ]
    return runtime.Runtime("tflite", entries, run)


def _input_names(interpreter):
    """Tensor index -> the input's name in the signature: tensors themselves have names of TensorFlow's."""
    if not interpreter.get_signature_list():
        return {}
    details = interpreter.get_signature_runner().get_input_details()
    return {detail["index"]: name for name, detail in details.items()}


def weights(path):
    from tensorflow.lite.python import schema_py_generated as schema

    types = {schema.TensorType.FLOAT32: "float32", schema.TensorType.FLOAT16: "float16"}
    types[schema.TensorType.INT8] = "int8"
    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    found = {}  # tensors may share a buffer; those that the model computes have an empty one
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength() and tensor.Type() in types:
                found[tensor.Buffer()] = buffer.DataAsNumpy().view(types[tensor.Type()])
    return list(found.values())
