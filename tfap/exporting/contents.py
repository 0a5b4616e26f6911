"""What LiteRT and ONNX files hold: their kernels, and which operations compute in integers."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tfap.exporting import flatbuffer
from tfap.exporting.flatbuffer import StoredKernel

_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "DENSIFY", "QuantizeLinear", "DequantizeLinear")


@dataclasses.dataclass(frozen=True)
class Operation:
    """Counts the operations of one name in a file.

    Attributes:
        name: String. Name of the operator, such as "CONV_2D".
        integer: Integer. Number of those that compute in integers.
        floating: Integer. Number of the others.
    """

    name: str
    integer: int
    floating: int


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """Holds what a file contains.

    Attributes:
        kernels: Tuple of `StoredKernel`s in the order of the operations that use them.
        operations: Tuple of `Operation`s, without those that only convert between types.
    """

    kernels: tuple[StoredKernel, ...]
    operations: tuple[Operation, ...]


def contents(path: str | os.PathLike[str]) -> Contents:
    """Reads the kernels and the operations of a file.

    Args:
        path: Path of a `.tflite` or `.onnx` file.

    Returns:
        The `Contents`.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the file has another format.
        ImportError: If onnx is needed and not installed. The message has the pip command.
    """
    path = pathlib.Path(path)
    readers = {".tflite": _of_tflite, ".onnx": _of_onnx}
    if path.suffix not in readers:
        raise ValueError(f"Expected a .tflite or .onnx file: received '{path}'.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no model at '{path}'.")
    return readers[path.suffix](path)


def matched(kernels: Sequence[StoredKernel], others: Sequence[StoredKernel]) -> list[StoredKernel | None]:
    """Finds, for each kernel of a file, that of another file of the same model.

    Args:
        kernels: The kernels of the file.
        others: The kernels of the other file, in the same order but perhaps with others between them.

    Returns:
        List of the kernel of `others` with the same shape, or None, for each of `kernels`.
    """
    found: list[StoredKernel | None] = []
    start = 0
    for kernel in kernels:
        positions = [i for i in range(start, len(others)) if others[i].values.shape == kernel.values.shape]
        found.append(others[positions[0]] if positions else None)
        start = positions[0] + 1 if positions else start
    return found


def _counted(operations):
    """Returns the `Operation`s of pairs `(name, whether in integers)`."""
    integer = collections.Counter(name for name, is_integer in operations if is_integer)
    every = collections.Counter(name for name, _ in operations)
    return tuple(
        Operation(name, integer[name], count - integer[name])
        for name, count in every.items()
        if name not in _CONVERSIONS
    )


def _of_tflite(path):
    model = flatbuffer.read(path.read_bytes())
    operations = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            used = [index for index in [*operator.inputs, *operator.outputs] if index >= 0]
            dtypes = {flatbuffer.dtype_of(graph.tensors[index]) for index in used}
            operations.append((flatbuffer.operator_name(model, operator), dtypes <= {*_INTEGERS}))
    return Contents(tuple(flatbuffer.kernels(model)), _counted(operations))


def _of_onnx(path):
    from tfap.exporting import runtime

    onnx = runtime.imported("onnx", "onnx")
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    kernels, operations = [], []
    for node in graph.node:
        if node.op_type in _CONVERSIONS:
            continue
        computed = [name for name in node.input if name and name not in constants]
        is_integer = all(name in dequantized for name in computed) and all(
            n in quantized for n in node.output
        )
        operations.append((node.op_type, bool(computed) and is_integer))
        for name in node.input:
            kernel = _onnx_kernel(name, node.op_type, constants, dequantized)
            if kernel is not None:
                kernels.append(kernel)
    return Contents(tuple(kernels), _counted(operations))


def _onnx_kernel(name, operator, constants, dequantized):
    """Returns the kernel that an operation uses by a name, or None if it is not a constant of two axes."""
    points, axis = np.zeros(1, "int64"), 0
    if name in dequantized:
        node = dequantized[name]
        name = node.input[0]
        points = np.atleast_1d(constants.get(node.input[2], points)) if len(node.input) > 2 else points
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    values = constants.get(name)
    if values is None or values.ndim < 2 or str(values.dtype) not in flatbuffer.WEIGHT_DTYPES:
        return None
    return StoredKernel(name, operator, values, points, axis, values.nbytes, False)
