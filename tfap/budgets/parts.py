"""What each weight of a model costs if only some channel groups are kept."""

import dataclasses
import math

import numpy as np

from tfap.exporting.sizes import count_weights
from tfap.graph import composite, layer_types
from tfap.graph.layer_types import ChannelRule
from tfap.graph.linear import Depthwise, Embedding, Grouped, Separable
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A weight of a layer, or one group of a grouped convolution: kept inputs x kept outputs x `each`.

    Attributes:
        path: String. Path of the layer.
        inputs: Integer array of the channel groups of its inputs. None if it has none that can be removed.
        outputs: The same of its outputs.
        each: Float. Weights per input and output.
        in_kernel: Boolean. Whether it is multiplied with inputs, and so costs FLOPs.
    """

    path: str
    inputs: np.ndarray | None
    outputs: np.ndarray | None
    each: float
    in_kernel: bool

    def of(self, kept: np.ndarray) -> float:
        """Computes the number of weights with the kept groups: boolean array, shape `(groups,)`."""
        rows = 1 if self.inputs is None else int(kept[self.inputs].sum())
        columns = 1 if self.outputs is None else int(kept[self.outputs].sum())
        return rows * columns * self.each


def parts_of(model: Model, liveness: Liveness) -> list[Part]:
    """Lists the weights of a model as `Part`s, those whose size depends on kept channels.

    Args:
        model: The model without wrappers.
        liveness: Its `Liveness`.
    """
    return [part for path, layer in liveness.graph.layers() for part in _of_layer(path, layer, liveness)]


def weight_count(model: Model) -> int:
    """Counts the weights of a model as `tfap.report` does, with biases and moving statistics."""
    return count_weights(model.get_weights()).total


def _of_layer(path, layer, liveness):
    consumed, produced = liveness.groups(path)
    linear_map = liveness.linear_map(path)
    heads = liveness.channels.heads(path)
    if heads is not None:
        return list(_of_attention(path, linear_map, consumed, heads, produced))
    units = liveness.channels.units_of(path)
    if units:
        return [
            Part(path, None, units[entry], size / len(units[entry]), in_kernel)
            for entry, size, in_kernel in composite.costs(layer)
        ]
    if linear_map is not None:
        return _of_linear_map(path, linear_map, consumed, produced)
    if produced is None or not getattr(layer, "weights", None):
        return []
    if hasattr(layer, "target_shape") and layer_types.of(layer).channels is ChannelRule.RESHAPED:
        return []
    axis = liveness.channels.of(liveness.graph.calls_of[path][0].outputs[0]).axis
    return [
        Part(path, None, produced, math.prod(weight.shape) / len(produced), False)
        for weight in layer.weights
        if _has_channels(tuple(weight.shape), axis, len(produced)) and "float" in str(weight.dtype)
    ]


def _has_channels(shape, axis, channels):
    """Whether a weight has an entry per channel, where `compact` removes some: see `_channel_indices`."""
    along = axis - 1 if len(shape) > 1 else 0
    return bool(shape) and shape[along] == channels


def _of_linear_map(path, linear_map, consumed, produced):
    if layer_types.of(linear_map.layer).recurrent:
        return list(_of_recurrent(path, linear_map, consumed, produced))
    bias = [] if linear_map.bias is None else [Part(path, None, produced, 1, False)]
    kernel = linear_map.kernels[-1]
    if isinstance(linear_map, Depthwise | Embedding):
        return [Part(path, None, produced, kernel.size / len(produced), True), *bias]
    if isinstance(linear_map, Separable):
        inputs, multiplier = linear_map.depthwise.shape[-2:]
        depthwise = linear_map.depthwise.size
        each = depthwise if consumed is None else depthwise / inputs
        mixed = inputs * multiplier if consumed is None else multiplier
        return [Part(path, consumed, None, each, True), Part(path, consumed, produced, mixed, True), *bias]
    if isinstance(linear_map, Grouped):
        count = linear_map.groups
        inputs = [None] * count if consumed is None else np.split(consumed, count)
        blocks = list(zip(inputs, np.split(produced, count), strict=True))
        pairs = sum((1 if some is None else len(some)) * len(others) for some, others in blocks)
        return [*(Part(path, some, others, kernel.size / pairs, True) for some, others in blocks), *bias]
    pairs = _pairs(consumed, produced)
    return [Part(path, consumed, produced, kernel.size / pairs, True), *bias]


def _of_recurrent(path, linear_map, consumed, produced):
    for reads_inputs, columns, weights in linear_map.costs():
        outputs = produced[columns]
        inputs = consumed if reads_inputs else outputs
        yield Part(path, inputs, outputs, weights / _pairs(inputs, outputs), True)
    if linear_map.bias is not None:
        yield Part(path, None, produced, linear_map.bias.size / len(produced), False)


def _of_attention(path, linear_map, consumed, heads, produced):
    for inputs, outputs, weights in linear_map.costs(consumed, heads, produced):
        yield Part(path, inputs, outputs, weights / _pairs(inputs, outputs), True)
    for size in linear_map.bias_sizes():
        yield Part(path, None, heads, size / len(heads), False)
    if linear_map.bias is not None:
        yield Part(path, None, produced, 1, False)


def _pairs(inputs, outputs):
    return (1 if inputs is None else len(inputs)) * len(outputs)
