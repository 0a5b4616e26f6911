"""What distinguishes the channels of a value, read from the weights alone.

A channel of a Dense or a convolution is described by its incoming weights and its bias, as BatchNormalization
scales them. Two channels of a value are equal for every input, up to a factor, if their descriptions are:

    description of d = s * description of r, s > 0   =>   channel d = s * channel r

That holds through activations such as ReLU, with relu(s x) = s relu(x), through pooling, depthwise
convolutions, and sums. Behind other activations, such as sigmoid, a description is rescaled to length 1, in
such a way that it is equal for equal channels only: then s = 1.

References:
    - Srinivas and Babu, *Data-free parameter pruning for deep neural networks*, BMVC 2015 (arXiv 1507.06149)
"""

import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.graph import functions, layer_types, linear, linear_maps, reshaping
from tfap.graph.calls import unwrap
from tfap.graph.layer_types import ChannelRule, ConstantRule

_HOMOGENEOUS = {
    *("Absolute", "LeakyRelu", "Negative", "Relu", "StopGradient"),
    *("abs", "identity", "leaky_relu", "negative", "relu", "stop_gradient"),
}  # functions
_PROBES = np.array([-8.0, -3.0, -1.0, -0.25, 0.0, 0.25, 1.0, 3.0, 8.0], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Descriptions of the channels of one value.

    Attributes:
        rows: List of float64 arrays, one per channel. Only rows of the same length can be compared.
        constants: float64 array, shape `(channels,)`. What is added to each channel last, such as its bias.
    """

    rows: list[np.ndarray]
    constants: np.ndarray

    def full(self) -> list[np.ndarray]:
        """Lists the descriptions, with the constants as last entries. Equal channels share an array."""
        made: dict[tuple[int, float], np.ndarray] = {}
        for row, constant in zip(self.rows, self.constants):
            if (id(row), constant) not in made:
                made[id(row), constant] = np.append(row, constant)
        return [made[id(row), constant] for row, constant in zip(self.rows, self.constants)]

    def take(self, index: np.ndarray) -> "Features":
        """Returns some channels."""
        return Features([self.rows[at] for at in index], self.constants[index])

    def scaled(self, factors: np.ndarray, shifts: np.ndarray) -> "Features":
        """Returns `factors * channels + shifts`."""
        rows = [factor * row for factor, row in zip(factors, self.rows)]
        return Features(rows, factors * self.constants + shifts)

    def closed(self) -> "Features":
        """Returns channels after a function with f(s x) = s f(x) for s > 0."""
        return Features(self.full(), np.zeros(len(self.rows)))

    def locked(self) -> "Features":
        """Returns channels after a function of which nothing is known: equal only if these are equal."""
        full = self.full()
        squares = [row @ row for row in full]
        typical = np.sqrt(np.mean(squares)) or 1.0
        rows = [np.append(row, typical) / np.sqrt(square + typical**2) for row, square in zip(full, squares)]
        return Features(rows, np.zeros(len(rows)))

    @classmethod
    def unknown(cls, count: int) -> "Features":
        """Returns channels that are all different."""
        return cls(list(np.eye(count)), np.zeros(count))

    @classmethod
    def joined(cls, parts: "list[Features]", signs=(1.0, 1.0)) -> "Features":
        """Returns channels that depend on those of several values alike, such as their sums."""
        rows = [np.concatenate(rows) for rows in zip(*(part.rows for part in parts))]
        signs = [*signs, *[1.0] * len(parts)]
        return cls(rows, np.sum([sign * part.constants for sign, part in zip(signs, parts)], axis=0))


def features_of(graph, channel_map):
    """Describes the channels of every value whose channels are known.

    Args:
        graph: The `calls.Graph` of a model without wrappers.
        channel_map: Its `channels.ChannelMap`.

    Returns:
        Dict of `Value` to `Features`.
    """
    found = {}
    for call in graph.calls:
        for index, value in enumerate(call.outputs):
            known = channel_map.of(value)
            if known is not None:
                count = len(known.groups)
                features = _Tracer(call, channel_map, found).trace(index, count)
                if features is None or len(features.rows) != count:
                    features = Features.unknown(count)
                found[value] = features
    return found


class _Tracer:
    """The features of the outputs of one call."""

    def __init__(self, call, channel_map, found):
        self._call, self._channels, self._found = call, channel_map, found
        self._layer = layer_types.inner(unwrap(call.layer))
        self._row = layer_types.of(unwrap(call.layer))

    def trace(self, index, count):
        rule = self._row.channels
        if self._row.recurrent or self._row.attention:
            return None
        if rule is ChannelRule.LINEAR:
            return _activated(self._layer, _of_linear(linear_maps.from_layer(self._layer)))
        inputs = [self._found.get(value) for value in self._call.inputs]
        if any(features is None for features in inputs):
            return None
        if rule is ChannelRule.DEPTHWISE:
            return _activated(self._layer, _of_depthwise(linear_maps.from_layer(self._layer), inputs[0]))
        if rule is ChannelRule.SAME:
            return self._same(inputs[0])
        if rule is ChannelRule.MERGED:
            return self._merged(inputs, count)
        if rule in (ChannelRule.CONCATENATED, ChannelRule.STACKED):
            total = sum(len(features.rows) for features in inputs)
            if rule is ChannelRule.CONCATENATED and total == count and len(inputs) > 1:
                rows = [row for features in inputs for row in features.rows]
                return Features(rows, np.concatenate([features.constants for features in inputs]))
            return Features.joined([features.closed() for features in inputs])
        if rule is ChannelRule.RESHAPED:
            return self._reshaped(inputs[0])
        if rule is ChannelRule.PERMUTED:
            return inputs[0].closed()
        if rule is ChannelRule.SELECTED:
            axis = self._channels.of(self._call.inputs[0]).axis
            return inputs[0].take(
                np.arange(len(inputs[0].rows))[functions.selected(self._call, axis)[1][index]]
            )
        return None

    def _same(self, features):
        constants = self._row.constants
        name = functions.name_of(self._call)
        if constants is ConstantRule.NORMALIZED:
            return _normalized(self._layer, features)
        if constants is ConstantRule.PRELU:
            return _with_slopes(self._layer, features, self._channels.of(self._call.outputs[0]).axis)
        if constants is ConstantRule.GROUP_NORMALIZED or constants in layer_types.OVER_CHANNELS:
            return None
        if constants is ConstantRule.APPLIED:
            known = name in _HOMOGENEOUS if name is not None else _is_homogeneous(self._layer)
            return features.closed() if known else features.locked()
        if constants is ConstantRule.KEPT:
            return features
        return features.closed() if constants is ConstantRule.ZERO_KEPT else features.locked()

    def _merged(self, inputs, count):
        kind = functions.name_of(self._call) or keras_compat.kind_of(self._layer) or ""
        if len(inputs) < 2 or any(len(features.rows) != count for features in inputs):
            return None
        if kind in ("Add", "add", "add_n", "Average"):
            share = np.full(count, 1 / len(inputs) if kind == "Average" else 1.0)
            return Features.joined([features.scaled(share, np.zeros(count)) for features in inputs])
        if kind in ("Subtract", "subtract"):
            return Features.joined(inputs, (1.0, -1.0))
        if kind.lower() in ("maximum", "minimum"):
            return Features.joined([features.closed() for features in inputs])
        return Features.joined([features.locked() for features in inputs]).locked()

    def _reshaped(self, features):
        value, result = self._call.inputs[0], self._call.outputs[0]
        axis, new_axis = self._channels.of(value).axis, self._channels.of(result).axis
        if reshaping.keeps_last_axis(self._layer, axis, value.shape, result.shape):
            return features
        first = reshaping.channels_first_flatten(self._layer)
        origins = reshaping.spread(np.arange(len(features.rows)), axis, value.shape, first)
        units = reshaping.by_unit(origins.reshape(result.shape[1:]), new_axis - 1)
        if (units == units[:1]).all():
            return features.take(units[0])
        full = features.full()
        rows = [np.concatenate([full[at] for at in dict.fromkeys(column)]) for column in units.T]
        return Features(rows, np.zeros(len(rows)))


def _of_linear(linear_map):
    """Describes the outputs of a linear map by its weights and bias."""
    kernel = linear_map.kernels[-1].astype(np.float64)
    if isinstance(linear_map, linear.Grouped):
        rows = _grouped_rows(kernel, linear_map.groups)
    else:
        at = (
            -1
            if isinstance(linear_map, linear.Embedding | linear.Separable)
            else linear_map.spec.neuron_axes[0]
        )
        moved = np.moveaxis(kernel, at, 0)
        rows = list(moved.reshape(len(moved), -1))
    bias = np.zeros(len(rows)) if linear_map.bias is None else linear_map.bias.astype(np.float64)
    return Features(rows, bias)


def _grouped_rows(kernel, groups):
    """Lists the weights of each output, with zeros for the inputs of other groups."""
    inputs, outputs = kernel.shape[-2:]
    rows = []
    for output in range(outputs):
        row = np.zeros((*kernel.shape[:-2], groups, inputs))
        row[..., output * groups // outputs, :] = kernel[..., output]
        rows.append(row.ravel())
    return rows


def _of_depthwise(linear_map, features):
    kernel = linear_map.kernels[-1].astype(np.float64)
    windows = kernel.reshape(-1, *kernel.shape[-2:])  # (taps, inputs, multiplier)
    rows = [
        np.kron(windows[:, at, number], full)
        for at, full in enumerate(features.full())
        for number in range(windows.shape[2])
    ]
    bias = np.zeros(len(rows)) if linear_map.bias is None else linear_map.bias.astype(np.float64)
    return Features(rows, bias)


def _normalized(layer, features):
    def weight(name, default):
        values = getattr(layer, name, None)
        return default if values is None else np.array(values, np.float64).ravel()

    count = len(features.rows)
    scale = weight("gamma", np.ones(count)) / np.sqrt(weight("moving_variance", None) + layer.epsilon)
    return features.scaled(scale, weight("beta", np.zeros(count)) - weight("moving_mean", None) * scale)


def _with_slopes(layer, features, axis):
    """Adds the slopes of a PReLU: two channels are alike only if these are equal."""
    slopes = np.array(layer.alpha, np.float64)
    if slopes.shape[axis - 1] != len(features.rows):  # shared by all channels
        return features.closed()
    slopes = np.moveaxis(slopes, axis - 1, 0).reshape(len(features.rows), -1)
    rows = [np.append(row, np.sqrt(row @ row) * slope) for row, slope in zip(features.full(), slopes)]
    return Features(rows, np.zeros(len(rows)))


def _activated(layer, features):
    activation = getattr(layer, "activation", None)
    if activation is None or getattr(activation, "__name__", "") == "linear":
        return features
    return features.closed() if _is_homogeneous(activation) else features.locked()


def _is_homogeneous(activation):
    """Returns whether f(s x) = s f(x) for s > 0, as tried for some values."""
    try:
        once, twice, tenth = (np.asarray(activation(factor * _PROBES[None])) for factor in (1, 2, 0.1))
    except Exception:  # a layer of the user's that takes other shapes
        return False
    return np.allclose(twice, 2 * once, 1e-5, 1e-6) and np.allclose(tenth, 0.1 * once, 1e-5, 1e-6)
