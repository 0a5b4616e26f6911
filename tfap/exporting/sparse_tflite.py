"""Sparse kernels in LiteRT files: their zeros are left out where that makes the file smaller."""

import dataclasses
from typing import Any

import numpy as np

from tfap.exporting import flatbuffer, runtime

# Sizes of blocks along the first and along the last axis of a kernel. Its zeros are left out in whole blocks.
_BLOCKS = ((1, 1), (1, 4), (4, 1), (1, 16))
_OVERHEAD = 250  # bytes of the operator and of the tensor that a sparse kernel needs
_UNDEFINED_SIZE = 8
_TOLERANCE = 0.02  # of outputs, because quantized kernels may round differently


def sparsified(content: bytes) -> bytes:
    """Leaves out the zeros of kernels where that makes a LiteRT file smaller.

    LiteRT restores them when it loads the file, with the operator DENSIFY. Kernels of operators that then do
    not run in LiteRT, such as int8 Dense layers in its XNNPACK delegate, stay dense, if ai-edge-litert is
    installed to try it.

    Args:
        content: Bytes of a file without sparse kernels.

    Returns:
        Bytes of the smaller file, or `content` if none is smaller.
    """
    operators = {kernel.operator for kernel in flatbuffer.kernels(flatbuffer.read(content))}
    sparse = _encoded(content, operators)
    if (expected := _outputs(content)) is not None and not _agrees(sparse, expected):
        operators = {name for name in operators if _agrees(_encoded(content, {name}), expected)}
        sparse = _encoded(content, operators)
    return sparse if len(sparse) < len(content) else content


def has_sparse_kernels(content: bytes) -> bool:
    """Whether a LiteRT file has sparse kernels."""
    return any(kernel.sparse for kernel in flatbuffer.kernels(flatbuffer.read(content)))


def densified(content: bytes, names: set[str] | None = None) -> bytes:
    """Restores the zeros of sparse kernels in a LiteRT file.

    Args:
        content: Bytes of a file.
        names: Set of names of kernels as in `flatbuffer.kernels`. None for all.

    Returns:
        Bytes of the file with dense kernels.
    """
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        removed = []
        for index, operator in flatbuffer.passing_operators(model, graph).items():
            source = graph.tensors[operator.inputs[0]]
            if source.sparsity is None or (names is not None and source.name.decode() not in names):
                continue
            values = flatbuffer.dense_values(model, source)
            graph.tensors[index].buffer, source.buffer, source.sparsity = source.buffer, 0, None
            flatbuffer.set_values(model, graph.tensors[index], values)
            removed.append(operator)
        graph.operators = [operator for operator in graph.operators if operator not in removed]
    return flatbuffer.to_bytes(model)


def _encoded(content, operators):
    """Returns the file with sparse kernels in the named operators, where each is smaller than dense."""
    model = flatbuffer.read(content)
    schema = flatbuffer.schema()
    code = None
    for graph in model.subgraphs:
        before = []  # operators that decode kernels
        for index in dict.fromkeys(flatbuffer.kernel_tensors(model, graph, operators)):
            tensor = graph.tensors[index]
            values = flatbuffer.dense_values(model, tensor)
            encoding = min((_encode(values, *block) for block in _BLOCKS), key=lambda each: each.bytes)
            if encoding.bytes + _OVERHEAD >= values.nbytes:
                continue
            code = _operator_code(model, schema) if code is None else code
            graph.tensors.append(_sparse_tensor(schema, tensor, encoding))
            tensor.buffer = 0  # computed from now on
            flatbuffer.set_values(model, graph.tensors[-1], encoding.values)
            tensor.name = (tensor.name or b"") + b"/dense"
            before.append(_densify(schema, code, len(graph.tensors) - 1, index))
        graph.operators = before + graph.operators
    return flatbuffer.to_bytes(model)


@dataclasses.dataclass(frozen=True, eq=False)
class _Encoding:
    """Holds the values that are kept, in blocks, and their positions along the last axis."""

    values: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    shape: tuple[int, ...]  # in blocks
    block: tuple[int, int]

    @property
    def bytes(self):
        return self.values.nbytes + self.segments.nbytes + self.positions.nbytes


def _encode(values, first, last):
    """Encodes blocks of `first` values along the first axis and `last` values along the last one."""
    shape = values.shape
    if shape[0] % first or shape[-1] % last:
        first = last = 1
    rows = (shape[0] // first, *shape[1:-1], shape[-1] // last)
    blocks = values.reshape(rows[0], first, *shape[1:-1], rows[-1], last)
    blocks = np.moveaxis(blocks, 1, -2).reshape(-1, rows[-1], first * last)
    is_kept = blocks.any(axis=-1)
    segments = np.concatenate([[0], np.cumsum(is_kept.sum(axis=1))])
    positions = np.nonzero(is_kept)[1]
    return _Encoding(blocks[is_kept].ravel(), _small(segments), _small(positions), rows, (first, last))


def _small(integers):
    """Converts integers to the smallest type that the format allows."""
    largest = int(integers.max(initial=0))
    dtype = "uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "int32"
    return integers.astype(dtype)


def _sparse_tensor(schema, tensor, encoding):
    source = schema.TensorT()
    for field in ("shape", "type", "name", "buffer", "quantization", "hasRank"):
        setattr(source, field, getattr(tensor, field))
    source.sparsity = sparsity = schema.SparsityParametersT()
    rank = len(encoding.shape)
    blocked = {axis: size for axis, size in zip((0, rank - 1), encoding.block) if size > 1}
    sparsity.traversalOrder = list(range(rank + len(blocked)))
    sparsity.blockMap = list(blocked) or None
    sparsity.dimMetadata = [_dense_axis(schema, size) for size in encoding.shape[:-1]]
    sparsity.dimMetadata.append(_sparse_axis(schema, encoding))
    sparsity.dimMetadata += [_dense_axis(schema, size) for size in blocked.values()]
    return source


def _dense_axis(schema, size):
    axis = schema.DimensionMetadataT()
    axis.format, axis.denseSize = schema.DimensionType.DENSE, size
    return axis


def _sparse_axis(schema, encoding):
    axis = schema.DimensionMetadataT()
    axis.format = schema.DimensionType.SPARSE_CSR
    axis.arraySegmentsType, axis.arraySegments = _index_vector(schema, encoding.segments)
    axis.arrayIndicesType, axis.arrayIndices = _index_vector(schema, encoding.positions)
    return axis


def _index_vector(schema, integers):
    name = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[str(integers.dtype)]
    vector = getattr(schema, f"{name}T")()
    vector.values = integers
    return getattr(schema.SparseIndexVector, name), vector


def _operator_code(model, schema):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DENSIFY
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _densify(schema, code, source, target):
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = [source], [target]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator


# -- trying it -------------------------------------------------------------------------------------


def _outputs(content) -> list[Any] | None:
    """Returns the outputs of a file on random inputs. None if it does not run or LiteRT is not installed."""
    try:
        interpreter = runtime.imported("ai_edge_litert.interpreter", "tflite").Interpreter(
            model_content=content
        )
        generator = np.random.default_rng(0)
        for detail in interpreter.get_input_details():
            shape = [_UNDEFINED_SIZE if size == -1 else size for size in detail["shape_signature"]]
            interpreter.resize_tensor_input(detail["index"], shape)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            values = np.abs(generator.normal(size=detail["shape"]))
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    except Exception:  # of any kind that LiteRT raises for a file that it cannot run
        return None


def _agrees(content, expected):
    outputs = _outputs(content)
    if outputs is None:
        return False
    return all(
        np.abs(output.astype("float64") - given).max(initial=0) <= _TOLERANCE * np.abs(given).max(initial=1)
        for output, given in zip(outputs, (array.astype("float64") for array in expected))
    )
