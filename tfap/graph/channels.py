"""Which channels of a model belong together: where one goes, all of its group have to go.

A channel keeps its identity through activations, normalisation, pooling and the like; Add ties the
channels of its inputs, Flatten and Reshape spread one over several units, a layer with weights that
mix its inputs starts new ones. Nothing here looks at the values of weights.
"""

import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import channel_axis, unwrap
from tfap.graph.layer_types import ChannelRule, ConstantRule


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one value: the axis that numbers them, and the group of each."""

    axis: int
    groups: np.ndarray


class ChannelMap:
    """The channel groups of a `calls.Graph`, numbered from 0.

    Attributes:
        size: how many groups there are.
        pinned: group -> why none of its channels can go.
    """

    def __init__(self, layers):
        self._graph = layers
        self._ties, self._pins = [], []
        self._of = {}
        self.size = 0
        for value in layers.inputs:
            self._of[value] = None
        for call in layers.calls:
            self._trace(call)
        for calls in layers.calls_of.values():
            self._tie_calls(calls)
        self._tie_entries()
        for value in layers.outputs:
            self._pin(value, "an output of the model")
        self._number_groups()

    def of(self, value):
        """The `Channels` of a value, None where nobody knows them."""
        return self._of[value]

    # -- one rule for each kind of layer -----------------------------------------------------------

    def _trace(self, call):
        layer = unwrap(call.layer)
        traced = self._rule(layer, call)(layer, call)
        if isinstance(traced, str):
            for value in call.inputs:
                self._pin(value, traced)
            traced = None
        for value in call.outputs:
            self._of[value] = traced

    def _rule(self, layer, call):
        row = layer_types.of(layer)
        if call.training and row.random_in_training:
            return self._random
        if row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE) and not _is_plain(layer):
            return self._with_more_weights if _has_more_weights(layer) else self._opaque
        if row.channels is ChannelRule.MERGED and len(call.inputs) == 1:
            return self._opaque  # with a constant, such as keras.ops.add(x, 1)
        return {
            ChannelRule.LINEAR: self._linear,
            ChannelRule.DEPTHWISE: self._depthwise,
            ChannelRule.SAME: self._same,
            ChannelRule.MERGED: self._merge,
            ChannelRule.CONCATENATED: self._concatenate,
            ChannelRule.RESHAPED: self._reshape,
            ChannelRule.PERMUTED: self._permute,
            None: self._opaque,
        }[row.channels]

    def _random(self, layer, call):
        return f"'{call.path}' is always called with training=True"

    def _with_more_weights(self, layer, call):
        return f"'{call.path}' ({type(layer).__name__}) has more weights than its kernel and bias"

    def _opaque(self, layer, call):
        if not keras_compat.is_layer(layer):
            return f"the function '{call.path}' follows, of which tfap does not know what it mixes"
        if keras_compat.kind_of(layer) is None:
            return f"the custom layer '{call.path}' ({type(layer).__name__}) follows"
        return f"the {type(layer).__name__} '{call.path}' follows"

    def _linear(self, layer, call):
        if not reads_channels(layer) and self._of[call.inputs[0]] is not None:
            return f"'{call.path}' takes it for indices"
        shape = call.outputs[0].shape
        axis = _channel_axis(layer, len(shape))
        if reads_channels(layer):
            self._groups_along(call.inputs[0], axis, f"'{call.path}' reads it along another axis")
        made = self._new(shape[axis])
        if not is_elementwise(layer):
            self._pins.append((made, f"the activation of '{call.path}' looks at several units"))
        return Channels(axis, made)

    def _depthwise(self, layer, call):
        axis = _channel_axis(layer, len(call.outputs[0].shape))
        read = self._groups_along(call.inputs[0], axis, f"'{call.path}' reads it along another axis")
        made = self._new(call.outputs[0].shape[axis])
        self._tie(made, np.repeat(read, layer.depth_multiplier))
        if not is_elementwise(layer):
            self._pins.append((made, f"the activation of '{call.path}' looks at several units"))
        return Channels(axis, made)

    def _same(self, layer, call):
        (value,), result = call.inputs[:1], call.outputs[0]
        channels = self._of[value]
        if not is_elementwise(layer):
            return f"the activation '{call.path}' looks at several units"
        if channels is None:
            return None
        spatial = hasattr(layer, "data_format") and len(value.shape) > 2
        axis = None
        if layer_types.of(layer).constants is ConstantRule.NORMALIZED:
            # tf_keras keeps a list, nearly always of one.
            axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
            if len(axes) > 1:
                return f"'{call.path}' works along several axes"
            (axis,) = axes
        if spatial:
            axis = _channel_axis(layer, len(value.shape))
        if axis is not None and axis % len(value.shape) != channels.axis:
            return f"'{call.path}' works along another axis"
        noise_shape = getattr(layer, "noise_shape", None)
        if noise_shape is not None and noise_shape[channels.axis] not in (None, 1):
            return f"the noise_shape of '{call.path}' names the number of channels"
        last = channels.axis == len(value.shape) - 1
        new_axis = len(result.shape) - 1 if last else channels.axis
        if new_axis >= len(result.shape) or result.shape[new_axis] != len(channels.groups):
            return f"'{call.path}' changes the number of channels"
        return Channels(new_axis, channels.groups)

    def _merge(self, layer, call):
        shape = call.outputs[0].shape
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        alike = all(len(value.shape) == len(shape) for value in call.inputs)
        if not known or not alike or any(channels.axis != known[0].axis for channels in known):
            return f"'{call.path}' joins it with channels along other axes"
        axis = known[0].axis
        why = f"'{call.path}' joins it with channels that cannot go"
        made = self._new(shape[axis])
        for value in call.inputs:
            if value.shape[axis] == shape[axis]:
                self._tie(made, self._groups_along(value, axis, why))
            else:  # one channel for all
                self._pin(value, f"'{call.path}' spreads it over all channels")
        return Channels(axis, made)

    def _concatenate(self, layer, call):
        shape = call.outputs[0].shape
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        if not known or any(channels.axis != known[0].axis for channels in known):
            return f"'{call.path}' joins it with channels along other axes"
        axis = known[0].axis
        parts = [
            self._groups_along(value, axis, f"'{call.path}' joins it with others") for value in call.inputs
        ]
        if layer.axis % len(shape) == axis:
            return Channels(axis, np.concatenate(parts))
        for part in parts[1:]:
            self._tie(parts[0], part)
        return Channels(axis, parts[0])

    def _reshape(self, layer, call):
        value, shape = call.inputs[0], call.outputs[0].shape
        channels = self._of[value]
        if channels is None:
            return None
        if None in value.shape[1:] or None in shape[1:]:
            return f"'{call.path}' reshapes a value of unknown size"
        elements = spread(channels.groups, channels.axis, value.shape, channels_first_flatten(layer))
        units = elements.reshape(-1, shape[-1])
        for row in units[1:]:
            self._tie(units[0], row)
        return Channels(len(shape) - 1, units[0])

    def _permute(self, layer, call):
        channels = self._of[call.inputs[0]]
        if channels is None:
            return None
        return Channels(layer.dims.index(channels.axis) + 1, channels.groups)

    # -- groups ------------------------------------------------------------------------------------

    def _new(self, count):
        made = np.arange(self.size, self.size + count)
        self.size += count
        return made

    def _tie(self, some, others):
        self._ties.append((np.asarray(some), np.asarray(others)))

    def _pin(self, value, reason):
        if self._of[value] is not None:
            self._pins.append((self._of[value].groups, reason))

    def _groups_along(self, value, axis, reason):
        """The groups of a value's channels along an axis; new ones that stay where they are not known."""
        channels = self._of[value]
        if channels is not None and channels.axis == axis % len(value.shape):
            return channels.groups
        self._pin(value, reason)
        made = self._new(value.shape[axis] or 0)
        self._pins.append((made, reason))
        return made

    def _tie_calls(self, calls):
        """A layer with weights, or one that names a size, has the same channels in all its calls."""
        layer = calls[0].layer
        named = hasattr(layer, "target_shape")
        if len(calls) == 1 or not (getattr(layer, "weights", None) or named):
            return
        for call in calls[1:]:
            for mine, first in zip(call.inputs + call.outputs, calls[0].inputs + calls[0].outputs):
                self._tie_values(mine, first)

    def _tie_entries(self):
        """So has a nested model that is called several times."""
        first = {}
        for model, values in self._graph.entries:
            for mine, other in zip(values, first.setdefault(id(model), values)):
                self._tie_values(mine, other)

    def _tie_values(self, some, others):
        a, b = self._of[some], self._of[others]
        if a is None or b is None or a.axis != b.axis or len(a.groups) != len(b.groups):
            for value in (some, others):
                self._pin(value, "a shared layer reads several values that do not agree")
        elif some is not others:
            self._tie(a.groups, b.groups)

    def _number_groups(self):
        labels = np.arange(self.size)
        if self._ties:
            some, others = (np.concatenate(side) for side in zip(*self._ties))
            labels = _connected(labels, some, others)
        _, labels = np.unique(labels, return_inverse=True)
        self.size = int(labels.max(initial=-1)) + 1
        self.pinned = {}
        for groups, reason in self._pins:
            for group in np.unique(labels[groups]):
                self.pinned.setdefault(int(group), reason)
        for value, channels in self._of.items():
            if channels is not None:
                self._of[value] = Channels(channels.axis, labels[channels.groups])


def _connected(labels, some, others):
    """Gives connected entries the same label, the lowest of them."""
    while True:
        before = labels
        lower = np.minimum(labels[some], labels[others])
        labels = labels.copy()
        np.minimum.at(labels, before[some], lower)
        np.minimum.at(labels, before[others], lower)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def spread(values, axis, shape, channels_first):
    """One value a channel -> one for every element of a sample, in the order in which it is flattened."""
    along = [1] * (len(shape) - 1)
    along[axis - 1] = len(values)
    elements = np.broadcast_to(np.reshape(values, along), shape[1:])
    return np.moveaxis(elements, 0, -1).ravel() if channels_first else elements.ravel()


def channels_first_flatten(layer):
    """A Flatten layer for channels_first puts the channels last before it flattens."""
    is_flatten = not hasattr(layer, "target_shape")
    return is_flatten and getattr(layer, "data_format", None) == "channels_first"


def reads_channels(layer):
    """False for an Embedding, which reads indices."""
    return all(spec.reads_input for spec in layer_types.kernel_specs(layer)[:1])


def _is_plain(layer):
    """Whether a layer with kernels has what its row promises: variables, and no others than a bias."""
    if layer_types.why_not_prunable(layer) is not None or _has_more_weights(layer):
        return False
    return not hasattr(layer, "equation") or _is_dense_einsum(layer)


def _has_more_weights(layer):
    activation = getattr(layer, "activation", None)
    if keras_compat.is_layer(activation):  # its weights may come with its first call
        return layer_types.of(activation).constants is not ConstantRule.APPLIED
    has_bias = getattr(layer, "bias", None) is not None
    return len(layer.weights) > len(layer_types.kernel_specs(layer)) + has_bias


def _is_dense_einsum(layer):
    """Whether an EinsumDense layer is a Dense layer on the last axis, such as `abc,cd->abd`."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    bias_axes = layer.bias_axes or outputs[-1]
    return (
        len(kernel) == 2
        and kernel == inputs[-1] + outputs[-1]
        and inputs[:-1] == outputs[:-1]
        and bias_axes == outputs[-1]
    )


def _channel_axis(layer, ndim):
    return channel_axis(layer) % ndim
