"""Quantization of LiteRT files: the samples that give the ranges, and the scales of pruned channels."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfap.exporting import flatbuffer

CALIBRATED = ("int8", "int16x8")
QUANTIZED_INPUTS = {"int8": "int8", "int16x8": "int16"}  # the dtype of quantized inputs by `quantize`

_SAMPLES_PER_RUN = 16
# Positions of activations, kernel and bias among the inputs of an operator.
_POSITIONS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """Holds how the numbers of a file are stored.

    Attributes:
        quantize: String. A value of `quantize` of `tfap.export`, or None.
        samples: List of arrays, one per input of the model, from which the ranges of activations are taken.
            None if `quantize` needs none.
        inputs: String. The dtype of quantized inputs and outputs, or "float".
        sparse: Boolean. Whether zeros in kernels are left out where the file gets smaller.
    """

    quantize: str | None = None
    samples: Sequence[np.ndarray] | None = None
    inputs: str = "float"
    sparse: bool = False


def batches(samples: Sequence[np.ndarray], batch_size: int | None = None) -> Iterator[list[np.ndarray]]:
    """Splits samples into the batches of which a calibration runs one at a time.

    Args:
        samples: List of arrays, one per input.
        batch_size: Integer. Fixed batch size of the inputs. None for any. The first samples fill the last
            batch.

    Yields:
        A list of arrays per batch.

    Example:

    >>> [batch[0].tolist() for batch in batches([np.arange(5)], batch_size=2)]
    [[0, 1], [2, 3], [4, 0]]
    """
    count, size = len(samples[0]), batch_size or _SAMPLES_PER_RUN
    padded = count if batch_size is None else -(-count // size) * size
    for start in range(0, padded, size):
        rows = np.arange(start, min(start + size, padded)) % count
        yield [array[rows] for array in samples]


def configure(converter: Any, settings: Settings, names: Sequence[str], batch_size: int | None) -> Any:
    """Sets how a TensorFlow Lite converter quantizes.

    With calibration, operations that have no int8 version stay float.

    Args:
        converter: A `tf.lite.TFLiteConverter`.
        settings: The `Settings`.
        names: Names of the inputs, in the order of the samples.
        batch_size: Integer. Fixed batch size of the inputs. None for any.

    Returns:
        The converter.
    """
    import tensorflow as tf

    if settings.quantize is not None:
        converter.optimizations = {tf.lite.Optimize.DEFAULT}
    if settings.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings.quantize in CALIBRATED:
        ops = tf.lite.OpsSet
        quantized = {
            "int8": ops.TFLITE_BUILTINS_INT8,
            "int16x8": ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }[settings.quantize]
        converter.target_spec.supported_ops = [quantized, ops.TFLITE_BUILTINS]
        samples = settings.samples or []
        converter.representative_dataset = lambda: (
            dict(zip(names, batch)) for batch in batches(samples, batch_size)
        )
    if settings.inputs != "float":
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(settings.inputs)
    return converter


def with_scales_of_zero_channels(content: bytes) -> bytes:
    """Gives all-zero channels of int8 kernels the largest scale of the other channels.

    The converter divides the largest weight of a channel by 127, which is 0 or close to 0 in a channel of
    zeros. With such a scale, LiteRT does not run int16x8 files, and TFLite Micro aborts. Only the integers of
    biases depend on it. They are rewritten for the same values.

    Args:
        content: Bytes of a LiteRT file.

    Returns:
        The bytes with other scales.
    """
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        for operator in graph.operators:
            positions = _POSITIONS.get(flatbuffer.operator_name(model, operator))
            if positions is not None:
                _rescale(model, graph, [_input(operator, position) for position in positions])
    return flatbuffer.to_bytes(model)


def _rescale(model, graph, indices):
    """Changes the scales of the zero channels of an operator on `(activations, kernel, bias)`."""
    activations, kernel, bias = (None if index is None else graph.tensors[index] for index in indices)
    scales, input_scales = _scales(kernel), _scales(activations)
    if scales is None or input_scales is None or not _is_constant(model, kernel, ("int8",)):
        return
    rows = flatbuffer.dense_values(model, kernel)
    rows = np.moveaxis(rows, kernel.quantization.quantizedDimension, 0).reshape(len(scales), -1)
    zero = ~rows.any(axis=1)
    if not zero.any() or any(_is_shared(graph, index) for index in indices[1:]):
        return
    kernel.quantization.scale = np.where(zero, scales.max() if not zero.all() else 1 / 127, scales)
    if _is_constant(model, bias, ("int32", "int64")) and _scales(bias) is not None:
        integers = flatbuffer.stored_values(model, bias)
        new = (input_scales[0] * kernel.quantization.scale).astype("float32")
        values = integers * _scales(bias).astype("float64")
        integers = np.where(zero, np.round(values / new), integers).astype(integers.dtype)
        bias.quantization.scale = np.where(zero, new, _scales(bias))
        flatbuffer.set_values(model, bias, integers)


def _input(operator, position):
    """Returns the index of the tensor at a position. None if the operator has no input there."""
    is_given = position < len(operator.inputs) and operator.inputs[position] >= 0
    return operator.inputs[position] if is_given else None


def _is_shared(graph, index):
    return sum(list(operator.inputs).count(index) for operator in graph.operators) > 1


def _is_constant(model, tensor, dtypes):
    return tensor is not None and flatbuffer.has_data(model, tensor) and flatbuffer.dtype_of(tensor) in dtypes


def _scales(tensor):
    """Returns the scales of a tensor. None if it is not quantized."""
    quantization = None if tensor is None else tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    return np.asarray(quantization.scale)
