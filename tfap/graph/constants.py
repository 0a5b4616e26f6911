"""Constant channels: those that have the same value for every input of the model.

A neuron without nonzero incoming weights outputs `activation(bias)`, and BatchNormalization maps this
constant to another one. tfap follows constants through the graph until a layer mixes them with other channels
or pads them with zeros.
"""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.graph import attention, channels, contractions, functions, layer_types, norms, reshaping
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import unwrap
from tfap.graph.layer_types import ChannelRule, ConstantRule

_MOVING = (
    *(ChannelRule.CONCATENATED, ChannelRule.RESHAPED, ChannelRule.PERMUTED),
    *(ChannelRule.STACKED, ChannelRule.SELECTED, ChannelRule.CONTRACTED),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """The constant channels of one `Value`.

    Attributes:
        known: Boolean array, shape `(channels,)`. Whether the channel is constant: the same at every position
            and for every input.
        values: float64 array, shape `(channels,)`. The constants, and 0 for channels that are not constant.
    """

    known: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, known, values):
        return cls(known, np.where(known, np.asarray(values, np.float64), 0.0))

    @classmethod
    def none(cls, count):
        return cls(np.zeros(count, bool), np.zeros(count))

    @property
    def zero(self):
        """Whether each channel is always 0."""
        return self.known & (self.values == 0)

    def zeros(self):
        """Returns only the constants that are 0."""
        return Constants.of(self.zero, self.values)

    def foldable_into(self, linear_map):
        """Returns whether each constant can be folded into the bias of a `linear.LinearMap`."""
        return self.known if linear_map.folds_constants else self.zero


class ConstantMap:
    """The `Constants` of every `Value` of a model whose channels are known.

    Args:
        graph: A `calls.Graph`.
        channel_map: The `channels.ChannelMap` of the graph.
        linear_maps: Dict of path to `linear.LinearMap`, including depthwise layers.
        silent: Dict of path to a boolean array: channels to treat as zero after the layer at this path.
        training: Whether weights may change. A scale of zero in BatchNormalization then proves nothing.
        centered: The `centered.CenteredValues`, or other values whose channels have the sum zero.
    """

    def __init__(self, graph, channel_map, linear_maps, silent=None, training=False, centered=()):
        self._channels, self._linear_maps, self._training = channel_map, linear_maps, training
        self._centered = centered
        self._shared = {path for path, calls in graph.calls_of.items() if len(calls) > 1}
        self._of = {}
        self._unfed = {}
        for call in graph.calls:
            for value in call.outputs:
                constants = self._trace(call, value)
                if constants is not None and call.path in (silent or {}):
                    silenced = silent[call.path]
                    constants = Constants.of(constants.known | silenced, constants.values * ~silenced)
                self._of[value] = constants

    def of(self, value):
        """Returns the `Constants` of a value. None if its channels are unknown."""
        return self._of.get(value)

    def unfed(self, path):
        """Returns which outputs of a linear layer do not depend on inputs that vary: boolean array."""
        return self._unfed[path]

    def _note_unfed(self, path, unfed):
        self._unfed[path] = unfed & self._unfed.get(path, True)

    def _trace(self, call, value):
        """Returns the `Constants` of one of a call's outputs."""
        output = self._channels.of(value)
        if output is None:
            return None
        row = layer_types.of(unwrap(call.layer))
        if row.recurrent:
            return self._through_recurrent(call, value, self._linear_maps[call.path])
        if row.attention:
            return self._through_attention(call, self._linear_maps[call.path])
        if row.channels is ChannelRule.DEPTHWISE:
            return self._through_depthwise(call, self._linear_maps[call.path])
        if call.path in self._linear_maps:
            return self._through_linear_map(call, self._linear_maps[call.path])
        if row.channels in _MOVING:
            return self._through_move(call, value, row.channels, output)
        return self._through_elementwise(call, row, output)

    def _through_move(self, call, value, rule, output):
        """Finds the `Constants` after a call that moves channels, or that sums over some."""
        if rule is ChannelRule.PERMUTED:
            constants = self._of.get(call.inputs[0])
            return constants.zeros() if constants and functions.adds_up(call) else constants
        if rule is ChannelRule.CONTRACTED:
            zero = contractions.zeros(call, output.axis, self._channels.of, self._of.get)
            return Constants.of(zero, np.zeros(len(zero)))
        if rule is ChannelRule.STACKED:
            return _agreeing(
                [self._of.get(each) or Constants.none(len(output.groups)) for each in call.inputs]
            )
        if rule is ChannelRule.CONCATENATED:
            inputs = [self._along(each, output.axis) for each in call.inputs]
            return _through_concatenate(inputs, len(output.groups))
        axis = self._channels.of(call.inputs[0]).axis
        constants = self._along(call.inputs[0], axis)
        if rule is ChannelRule.RESHAPED:
            layer = layer_types.inner(unwrap(call.layer))
            return _through_reshape(layer, constants, axis, output.axis, call)
        return _through_selection(constants, axis, value, call)

    def _through_elementwise(self, call, row, output):
        """Finds the `Constants` after a call whose channel j depends on channel j of each input only."""
        layer, count = layer_types.inner(unwrap(call.layer)), len(output.groups)
        if row.channels is ChannelRule.ALONG_AXIS:
            return Constants.none(count)
        inputs = [self._along(value, output.axis) for value in call.inputs]
        if functions.name_of(call) is not None and row.channels in (ChannelRule.SAME, ChannelRule.MERGED):
            return _through_function(call, inputs, count)
        if row.channels is ChannelRule.MERGED:
            return _through_merge(layer, layer.__call__, inputs, count, _is_product(call))
        if norms.is_over_channels(layer):
            known, values = inputs[0].known, inputs[0].values
            is_centered = call.inputs[0] in self._centered
            return Constants.of(*norms.constants_after(layer, known, values, self._training, is_centered))
        return self._through_same(layer, row.constants, inputs[0], output.axis)

    def _through_same(self, layer, rule, constants, axis):
        """Applies a layer of `ChannelRule.SAME`."""
        if rule is ConstantRule.KEPT:
            return constants
        if rule is ConstantRule.ZERO_KEPT:
            return constants.zeros()
        if rule is ConstantRule.NORMALIZED:
            return _through_normalization(layer, constants, self._training)
        if rule is ConstantRule.GROUP_NORMALIZED:
            return _through_group_normalization(layer, constants, self._training)
        if rule is ConstantRule.PRELU:
            return _through_prelu(layer, constants, axis)
        if rule is ConstantRule.APPLIED:
            return Constants.of(constants.known, _activated(layer, layer, constants.values))
        return Constants.none(len(constants.known))

    def _along(self, value, axis):
        """Returns the `Constants` of a value. If its channels are unknown, none of them is constant."""
        return self._of.get(value) or Constants.none(value.shape[axis])

    def inputs_of(self, calls):
        """Returns the `Constants` that hold for the input of a linear layer in all its calls."""
        inputs = [self._consumed_by(call) for call in calls]
        if any(constants is None for constants in inputs):
            return None
        known, values = inputs[0].known.copy(), inputs[0].values
        for constants in inputs[1:]:
            known &= constants.known & (constants.values == values)
        return Constants.of(known, values)

    def _consumed_by(self, call):
        """Returns the `Constants` of a linear layer's input. None if its channels are on another axis."""
        if channels.consumed_by(call, self._channels) is None:
            return None
        if layer_types.of(unwrap(call.layer)).attention:
            parts = [self._of[value] for value in attention.consumed(call)]
            return Constants(*(np.concatenate(each) for each in zip(*map(dataclasses.astuple, parts))))
        return self._of.get(call.inputs[0])

    def _through_linear_map(self, call, linear_map):
        nonzero, bias = linear_map.nonzero, linear_map.bias
        values = np.zeros(nonzero.shape[1]) if bias is None else bias.astype(np.float64)
        inputs = None if call.path in self._shared else self._consumed_by(call)
        if inputs is None:
            known = ~nonzero.any(axis=0)
        else:
            foldable = inputs.foldable_into(linear_map)
            known = ~nonzero[~foldable].any(axis=0)
            used = foldable & (inputs.values != 0)
            if used.any():
                values = values + inputs.values[used] @ linear_map.sums()[used]
        self._note_unfed(call.path, known)
        return _after_activation(linear_map.layer, known, values)

    def _through_recurrent(self, call, value, linear_map):
        """Finds the units that are always zero. The others vary with time even if their inputs do not."""
        inputs = None if call.path in self._shared else self._consumed_by(call)
        no_inputs = np.zeros(len(linear_map.nonzero), bool)
        self._note_unfed(call.path, linear_map.find_zero(no_inputs if inputs is None else inputs.zero))
        known = linear_map.zero_by_output(len(call.outputs))[call.outputs.index(value)]
        return Constants.of(known, np.zeros(len(known)))

    def _through_attention(self, call, linear_map):
        """Finds the outputs that no head has an effect on. Sums of constant values may vary with masks."""
        inputs = None if call.path in self._shared else self._consumed_by(call)
        if inputs is not None:
            foldable = inputs.foldable_into(linear_map)
            linear_map.find_used(foldable, np.where(foldable, inputs.values, 0.0))
        known = ~linear_map.head_outputs.any(axis=0)
        self._note_unfed(call.path, known)
        return Constants.of(known, 0 if linear_map.bias is None else linear_map.bias)

    def _through_depthwise(self, call, linear_map):
        inputs = self._consumed_by(call) or Constants.none(len(linear_map.nonzero))
        foldable = inputs.foldable_into(linear_map)
        known = (~linear_map.nonzero | foldable[:, None]).ravel()
        values = (linear_map.sums() * np.where(foldable, inputs.values, 0)[:, None]).ravel()
        bias = 0 if linear_map.bias is None else linear_map.bias
        self._note_unfed(call.path, known)
        return _after_activation(linear_map.layer, known, values + bias)


def _after_activation(layer, known, values):
    """Applies the activation of a layer to its constants."""
    if not is_elementwise(layer):
        return Constants.none(len(known))
    return Constants.of(known, _activated(layer, getattr(layer, "activation", None), values))


def _through_normalization(layer, constants, training):
    weights = {name: _weight(layer, name) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    scale = 1 / np.sqrt(weights["moving_variance"] + layer.epsilon)
    if weights["gamma"] is not None:
        scale = scale * weights["gamma"]
    shift = 0 if weights["beta"] is None else weights["beta"]
    values = (constants.values - weights["moving_mean"]) * np.where(constants.known, scale, 0) + shift
    return Constants.of(constants.known if training else constants.known | (scale == 0), values)


def _through_group_normalization(layer, constants, training):
    """Normalizes constants in groups of channels that are all constant."""
    gamma, beta = (_weight(layer, name) for name in ("gamma", "beta"))
    values = constants.values.reshape(layer.groups, -1)
    mean, variance = values.mean(axis=1, keepdims=True), values.var(axis=1, keepdims=True)
    scale = np.ones(constants.values.shape) if gamma is None else gamma
    values = ((values - mean) / np.sqrt(variance + layer.epsilon)).ravel() * scale
    known = np.repeat(constants.known.reshape(layer.groups, -1).all(axis=1), len(scale) // layer.groups)
    if not training:
        known = known | (scale == 0)
    return Constants.of(known, np.where(scale == 0, 0, values) + (0 if beta is None else beta))


def _weight(layer, name):
    weight = getattr(layer, name, None)
    return None if weight is None else np.array(weight, np.float64)


def _through_function(call, inputs, count):
    """Applies an elementwise function of one tensor or several. Its constants must be scalars."""
    if any(math.prod(shape) != 1 for shape in functions.operand_shapes(call)):
        return Constants.none(count)

    def apply(arrays):
        return functions.applied(call, arrays)

    return _through_merge(call.layer, apply, inputs, count, _is_product(call) and len(inputs) > 1)


def _is_product(call):
    return (functions.name_of(call) or keras_compat.kind_of(call.layer)) in ("Multiply", "multiply")


def _through_merge(layer, merge, inputs, count, is_product):
    known = np.logical_and.reduce([np.broadcast_to(constants.known, count) for constants in inputs])
    values = [_as_batch(layer, np.broadcast_to(constants.values, count)) for constants in inputs]
    merged = keras_compat.to_numpy(merge(values)).astype(np.float64)[0]
    known = known & np.isfinite(merged)
    if is_product:  # a product with a constant zero is zero
        zero = np.logical_or.reduce([np.broadcast_to(constants.zero, count) for constants in inputs])
        known, merged = known | zero, np.where(zero, 0, merged)
    return Constants.of(known, merged)


def _through_concatenate(inputs, count):
    known = np.concatenate([constants.known for constants in inputs])
    if len(known) == count:
        return Constants.of(known, np.concatenate([constants.values for constants in inputs]))
    return _agreeing(inputs)  # concatenated along another axis


def _agreeing(inputs):
    """Returns the constants that are the same in every input."""
    values = inputs[0].values
    agreeing = [constants.known & (constants.values == values) for constants in inputs]
    return Constants.of(np.logical_and.reduce(agreeing), values)


def _through_selection(constants, axis, value, call):
    selection = functions.selected(call, axis)[1][call.outputs.index(value)]
    return Constants.of(constants.known[selection], constants.values[selection])


def _through_reshape(layer, constants, axis, new_axis, call):
    shape, new_shape = call.inputs[0].shape, call.outputs[0].shape
    if reshaping.keeps_last_axis(layer, axis, shape, new_shape):
        return constants
    first = reshaping.channels_first_flatten(layer)
    known, values = (
        reshaping.by_unit(reshaping.spread(part, axis, shape, first).reshape(new_shape[1:]), new_axis - 1)
        for part in (constants.known, constants.values)
    )
    same = (values == values[:1]).all(axis=0)
    return Constants.of(known.all(axis=0) & same, values[0])


def _through_prelu(layer, constants, axis):
    alpha = np.moveaxis(np.array(layer.alpha, np.float64), axis - 1, -1)
    alpha = alpha.reshape(-1, alpha.shape[-1])
    same = (alpha == alpha[:1]).all(axis=0)
    positive = constants.values >= 0
    values = np.where(positive, constants.values, alpha[0] * constants.values)
    return Constants.of(constants.known & (same | positive), values)


def _activated(layer, activation, values):
    """Applies a layer's elementwise activation, a function or a layer, to one value per channel."""
    if activation is None:
        return values
    return keras_compat.to_numpy(activation(_as_batch(layer, values)))[0].astype(np.float64)


def _as_batch(layer, values):
    """Returns one value per channel as a batch of one sample."""
    return keras_compat.float_tensor(layer, values[None])
