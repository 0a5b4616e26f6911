"""Which channels of a model are constant, whatever its inputs, and what their constants are.

A neuron into which nothing flows still gives activation(bias), past BatchNormalization too. Constants
are followed forward through the graph until a layer mixes them with what is not constant, or pads
them with zeros.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.graph import channels, layer_types
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import unwrap
from tfap.graph.layer_types import ChannelRule, ConstantRule


@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """What is known of the channels of one value.

    Attributes:
        known: bool, one a channel: True where it is the same at every position and for every input.
        values: float64, the constants; 0 where they are not known.
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
        return self.known & (self.values == 0)

    def foldable_into(self, layer):
        """Which of them an `linear.Affine` layer can take into its bias."""
        return self.known if layer.takes_constants else self.zero


class ConstantMap:
    """The `Constants` of every value of a graph whose channels are known.

    Args:
        layers: `calls.Graph`.
        channel_map: its `channels.ChannelMap`.
        affines: `linear.Affine` by layer path, depthwise ones too.
        silent: `{path: bool array}`: channels that are taken to be zero after the layer at this path.
        training: True if weights may change, so that a scale of zero is none for good.
    """

    def __init__(self, layers, channel_map, affines, silent=None, training=False):
        self._channels, self._affines, self._training = channel_map, affines, training
        self._shared = {path for path, calls in layers.calls_of.items() if len(calls) > 1}
        self._of = {}
        for call in layers.calls:
            made = self._traced(call)
            if made is not None and call.path in (silent or {}):
                made = Constants.of(made.known | silent[call.path], made.values * ~silent[call.path])
            for value in call.outputs:
                self._of[value] = made

    def of(self, value):
        """The `Constants` of a value, None where its channels are not known."""
        return self._of.get(value)

    def _traced(self, call):
        out = self._channels.of(call.outputs[0])
        if out is None:
            return None
        layer, row = unwrap(call.layer), layer_types.of(unwrap(call.layer))
        if row.channels is ChannelRule.DEPTHWISE:
            return _through_depthwise(self._affines[call.path], self._read_by(call))
        if call.path in self._affines:
            return self._through_affine(call, self._affines[call.path])
        if row.channels is ChannelRule.PERMUTED:
            return self._of.get(call.inputs[0])
        if row.channels is ChannelRule.RESHAPED:
            axis = self._channels.of(call.inputs[0]).axis
            return _through_reshape(layer, self._along(call.inputs[0], axis), axis, call)
        read = [self._along(value, out.axis) for value in call.inputs]
        if row.channels is ChannelRule.MERGED:
            return _through_merge(layer, read, len(out.groups))
        if row.channels is ChannelRule.CONCATENATED:
            return _through_concatenate(read, len(out.groups))
        return self._through_one(layer, row.constants, read[0], out.axis)

    def _through_one(self, layer, constants, read, axis):
        """Past a layer that has channel j of its output from channel j of its input alone."""
        if constants is ConstantRule.KEPT:
            return read
        if constants is ConstantRule.ZERO_KEPT:
            return Constants.of(read.zero, read.values)
        if constants is ConstantRule.NORMALIZED:
            return _through_normalization(layer, read, self._training)
        if constants is ConstantRule.PRELU:
            return _through_prelu(layer, read, axis)
        if constants is ConstantRule.APPLIED:
            return Constants.of(read.known, _activated(layer, read.values))
        return Constants.none(len(read.known))

    def _along(self, value, axis):
        """What is known of a value; nothing if its channels are not."""
        return self._of.get(value) or Constants.none(value.shape[axis])

    def inputs_of(self, calls):
        """What is known of an affine layer's inputs in all of its calls."""
        read = [self._read_by(call) for call in calls]
        if any(part is None for part in read):
            return None
        known, values = read[0].known.copy(), read[0].values
        for part in read[1:]:
            known &= part.known & (part.values == values)
        return Constants.of(known, values)

    def _read_by(self, call):
        """What is known of an affine layer's input; None if it reads along another axis than the channels."""
        read, made = (self._channels.of(value) for value in (call.inputs[0], call.outputs[0]))
        return None if read is None or read.axis != made.axis else self._of.get(call.inputs[0])

    def _through_affine(self, call, layer):
        bias = np.zeros(layer.nonzero.shape[1]) if layer.bias is None else layer.bias.astype(np.float64)
        read = None if call.path in self._shared else self._read_by(call)
        if read is None:
            known = ~layer.nonzero.any(axis=0)
        else:
            foldable = read.foldable_into(layer)
            known = ~layer.nonzero[~foldable].any(axis=0)
            used = foldable & (read.values != 0)
            if used.any():
                bias = bias + read.values[used] @ layer.sums()[used]
        return _known_after(layer.layer, known, bias)


def _through_depthwise(layer, read):
    read = Constants.none(len(layer.nonzero)) if read is None else read
    foldable = read.foldable_into(layer)
    known = ~layer.nonzero | foldable[:, None]
    values = (layer.sums() * np.where(foldable, read.values, 0)[:, None]).ravel()
    return _known_after(layer.layer, known.ravel(), values + (0 if layer.bias is None else layer.bias))


def _known_after(layer, known, values):
    """The `Constants` past a layer's own activation."""
    if not is_elementwise(layer):
        return Constants.none(len(known))
    return Constants.of(known, _activated(getattr(layer, "activation", None), values))


def _through_normalization(layer, read, training):
    weights = {name: _weight(layer, name) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    scale = 1 / np.sqrt(weights["moving_variance"] + layer.epsilon)
    if weights["gamma"] is not None:
        scale = scale * weights["gamma"]
    shift = 0 if weights["beta"] is None else weights["beta"]
    values = (read.values - weights["moving_mean"]) * np.where(read.known, scale, 0) + shift
    return Constants.of(read.known if training else read.known | (scale == 0), values)


def _weight(layer, name):
    weight = getattr(layer, name, None)
    return None if weight is None else np.array(weight, np.float64)


def _through_merge(layer, read, count):
    known = np.logical_and.reduce([np.broadcast_to(part.known, count) for part in read])
    values = [np.broadcast_to(part.values, count) for part in read]
    merged = np.asarray(_call(layer, [_row(part) for part in values]), np.float64)[0]
    if keras_compat.kind_of(layer) == "Multiply":  # a product with a constant zero is zero
        zero = np.logical_or.reduce([np.broadcast_to(part.zero, count) for part in read])
        known, merged = known | zero, np.where(zero, 0, merged)
    return Constants.of(known, merged)


def _call(layer, rows):
    return layer(rows) if keras_compat.is_layer(layer) else layer(*rows)


def _through_concatenate(read, count):
    known, values = (np.concatenate([getattr(part, name) for part in read]) for name in ("known", "values"))
    if len(known) == count:
        return Constants.of(known, values)
    known = np.logical_and.reduce([part.known & (part.values == read[0].values) for part in read])
    return Constants.of(known, read[0].values)  # joined along another axis


def _through_reshape(layer, read, axis, call):
    first = channels.channels_first_flatten(layer)
    known, values = (
        channels.spread(part, axis, call.inputs[0].shape, first).reshape(-1, call.outputs[0].shape[-1])
        for part in (read.known, read.values)
    )
    same = (values == values[:1]).all(axis=0)
    return Constants.of(known.all(axis=0) & same, values[0])


def _through_prelu(layer, read, axis):
    alpha = np.moveaxis(np.array(layer.alpha, np.float64), axis - 1, -1)
    alpha = alpha.reshape(-1, alpha.shape[-1])
    same = (alpha == alpha[:1]).all(axis=0)
    values = np.where(read.values >= 0, read.values, alpha[0] * read.values)
    return Constants.of(read.known & (same | (read.values >= 0)), values)


def _activated(activation, values):
    """An elementwise activation, as a function or a layer, of one value a channel."""
    return values if activation is None else np.asarray(activation(_row(values)))[0].astype(np.float64)


def _row(values):
    return tf.constant(values[None], tf.float64)
