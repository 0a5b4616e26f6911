"""LiteRT files as Python objects: their operators, and the kernels of those as dense arrays.

The classes are those of the schema of LiteRT (`tensorflow/lite/schema/schema.fbs`), whose fields they have.
"""

import dataclasses
import functools
import importlib
from collections.abc import Container, Iterator
from typing import Any, ClassVar

import numpy as np

_DTYPES = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
}
_PASSING = ("DEQUANTIZE", "DENSIFY")  # operators through which a kernel passes unchanged
WEIGHT_DTYPES = ("float32", "float16", "int8", "uint8")
_ALIGNMENT = 16  # bytes, as the converter writes buffers


def schema() -> Any:
    """Returns the module of the schema's classes, of TensorFlow or else of ai-edge-litert."""
    try:
        return importlib.import_module("tensorflow.lite.python.schema_py_generated")
    except ImportError:
        return importlib.import_module("ai_edge_litert.schema_py_generated")


def read(content: bytes) -> Any:
    """Reads the bytes of a LiteRT file as a `ModelT`."""
    return schema().ModelT.InitFromPackedBuf(bytes(content), 0)


def to_bytes(model: Any) -> bytes:
    """Writes a `ModelT` as the bytes of a LiteRT file."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Aligns the bytes of buffers, which LiteRT reads in place, and writes equal zero points once."""

        zero_points: ClassVar[dict[bytes, int]] = {}

        def CreateNumpyVector(self, x):
            if x.dtype == np.int64:
                key = x.tobytes()
                if key not in self.zero_points:
                    self.zero_points[key] = super().CreateNumpyVector(x)
                return self.zero_points[key]
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, _ALIGNMENT)
            self.head = self.head - x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            self.vectorNumElems = x.size
            return self.EndVector()

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def dtype_of(tensor: Any) -> str | None:
    """Returns the NumPy name of a tensor's dtype. None for types that no weight has."""
    return _DTYPES.get(_names("TensorType")[tensor.type])


def operator_name(model: Any, operator: Any) -> str:
    """Returns the name of an operator, such as "CONV_2D"."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = _names("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return code.customCode.decode() if name == "CUSTOM" else name


@functools.cache
def _names(enumeration):
    values = vars(getattr(schema(), enumeration))
    return {value: name for name, value in values.items() if isinstance(value, int)}


@dataclasses.dataclass(frozen=True, eq=False)
class StoredKernel:
    """A constant of at least two axes that an operator of a file uses.

    Attributes:
        name: String. Name of the tensor.
        operator: String. Name of the operator, such as "CONV_2D".
        values: Array. Dense values as stored: integers if they are quantized.
        zero_points: Integer array. Zero points, one or one per channel. Zeros without quantization.
        axis: Integer. Axis of the channels with their own zero points.
        stored_bytes: Integer. Bytes of the values, and of the positions of sparse ones.
        sparse: Boolean. Whether zeros are left out.
    """

    name: str
    operator: str
    values: np.ndarray
    zero_points: np.ndarray
    axis: int
    stored_bytes: int
    sparse: bool

    @property
    def is_zero(self) -> np.ndarray:
        """Boolean array of the shape of `values`: which real values are 0."""
        points = self.zero_points
        if points.size > 1:
            shape = [1] * self.values.ndim
            shape[self.axis] = points.size
            points = points.reshape(shape)
        return self.values == points


def kernels(model: Any) -> list[StoredKernel]:
    """Lists the kernels of a file in the order of its operators, each use once."""
    return [
        _stored_kernel(model, graph, index, name)
        for graph in model.subgraphs
        for name, index in _uses(model, graph)
        if name != "BROADCAST_TO"  # a bias, in files of models on JAX
    ]


def kernel_tensors(model: Any, graph: Any, operators: Container[str]) -> list[int]:
    """Lists the indices of the constants that are kernels of the named operators only."""
    users: dict[int, set[str]] = {}
    for name, index in _uses(model, graph):
        users.setdefault(index, set()).add(name)
    return [index for index, names in users.items() if all(name in operators for name in names)]


def _uses(model, graph) -> Iterator[tuple[str, int]]:
    """Yields `(operator name, tensor index)` of every use of a kernel."""
    made_by = passing_operators(model, graph)
    for operator in graph.operators:
        name = operator_name(model, operator)
        if operator.outputs[0] in made_by:
            continue
        for index in operator.inputs:
            while index in made_by:
                index = made_by[index].inputs[0]
            if index >= 0 and _is_kernel(model, graph.tensors[index]):
                yield name, index


def passing_operators(model: Any, graph: Any) -> dict[int, Any]:
    """Returns `{output tensor: operator}` of the operators that decode a constant."""
    found = {}
    for operator in graph.operators:
        if operator_name(model, operator) in _PASSING:
            source = operator.inputs[0]
            if source in found or has_data(model, graph.tensors[source]):
                found[operator.outputs[0]] = operator
    return found


def has_data(model: Any, tensor: Any) -> bool:
    """Whether a tensor is a constant."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _is_kernel(model, tensor):
    axes = 0 if tensor.shape is None else len(tensor.shape)
    return axes >= 2 and has_data(model, tensor) and dtype_of(tensor) in WEIGHT_DTYPES


def _stored_kernel(model, graph, index, operator):
    tensor = graph.tensors[index]
    quantization = tensor.quantization
    points = None if quantization is None else quantization.zeroPoint
    return StoredKernel(
        (tensor.name or b"").decode(),
        operator,
        dense_values(model, tensor),
        np.zeros(1, "int64") if points is None else np.asarray(points),
        0 if quantization is None else quantization.quantizedDimension,
        stored_bytes(model, tensor),
        tensor.sparsity is not None,
    )


def stored_values(model: Any, tensor: Any) -> np.ndarray:
    """Returns the values of a constant in the order of the file."""
    data = np.asarray(model.buffers[tensor.buffer].data, "uint8")
    return np.frombuffer(data.tobytes(), dtype_of(tensor))


def stored_bytes(model: Any, tensor: Any) -> int:
    """Returns the bytes of a constant: of its values, and of the positions of sparse ones."""
    dimensions = tensor.sparsity.dimMetadata if tensor.sparsity else []
    vectors = [vector for entry in dimensions for vector in (entry.arraySegments, entry.arrayIndices)]
    positions = sum(np.asarray(vector.values).nbytes for vector in vectors if vector is not None)
    return len(model.buffers[tensor.buffer].data) + positions


def set_values(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Replaces the values of a constant, but not those of other constants with the same buffer."""
    data = np.frombuffer(values.tobytes(), "uint8")
    users = [each for graph in model.subgraphs for each in graph.tensors if each.buffer == tensor.buffer]
    if len(users) > 1:
        model.buffers.append(schema().BufferT())
        tensor.buffer = len(model.buffers) - 1
    model.buffers[tensor.buffer].data = data


def dense_values(model: Any, tensor: Any) -> np.ndarray:
    """Returns the values of a constant as an array of its shape, with the zeros that a sparse one leaves out.

    The format of sparse tensors is that of TACO (Kjolstad et al., 2017): levels, one per axis and per axis of
    a block, each dense or with the positions of what it holds.
    """
    values = stored_values(model, tensor)
    if tensor.sparsity is None:
        return values.reshape(tensor.shape)
    order, rank = list(tensor.sparsity.traversalOrder), len(tensor.shape)
    positions: list[np.ndarray] = []
    for entry in tensor.sparsity.dimMetadata:
        if entry.format == schema().DimensionType.DENSE:
            size, count = entry.denseSize, len(positions[0]) if positions else 1
            positions = [np.repeat(axis, size) for axis in positions]
            positions.append(np.tile(np.arange(size), count))
        else:
            counts = np.diff(np.asarray(entry.arraySegments.values, "int64"))
            positions = [np.repeat(axis, counts) for axis in positions]
            positions.append(np.asarray(entry.arrayIndices.values, "int64"))
    coordinates = [positions[order.index(axis)] for axis in range(rank)]
    for block, axis in enumerate([] if tensor.sparsity.blockMap is None else tensor.sparsity.blockMap):
        level = order.index(rank + block)
        size = tensor.sparsity.dimMetadata[level].denseSize
        coordinates[axis] = coordinates[axis] * size + positions[level]
    dense = np.zeros(tensor.shape, values.dtype)
    dense[tuple(coordinates)] = values
    return dense
