"""Channels that can be scaled: the layers that make them are multiplied, and those that read them divided.

The outputs of a model stay as they are. What changes is the weight of a channel in the statistics of layers
that normalize it together with others, such as RMSNormalization. A channel can be scaled if every layer
between those that make and those that read it is homogeneous: twice the input makes twice the output.
"""

import numpy as np

from tfap import keras_compat
from tfap.graph import functions, layer_types, linear_maps, norms
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import unwrap
from tfap.graph.channels import consumed_by
from tfap.graph.layer_types import ChannelRule, ConstantRule

_POINTS = np.concatenate([sign * 2.0 ** np.arange(-12, 15) for sign in (-1, 1)])
_REARRANGING = (
    ChannelRule.CONCATENATED,
    ChannelRule.RESHAPED,
    ChannelRule.PERMUTED,
    ChannelRule.STACKED,
    ChannelRule.SELECTED,
)
_HOMOGENEOUS_MERGES = {
    *("Add", "Average", "Maximum", "Minimum", "Subtract"),
    *("add", "maximum", "minimum", "subtract"),
}


class ChannelScales:
    """Finds the channels that can be scaled, among those that are normalized together.

    Args:
        liveness: The `Liveness` of a model without wrappers.
        fixed: Set of paths of layers that must not change.

    Attributes:
        possible: Boolean array, shape `(channel groups,)`.
    """

    def __init__(self, liveness, fixed=()):
        self._liveness, self._fixed = liveness, fixed
        self.possible = np.zeros(liveness.channels.size, bool)
        self.possible[list(liveness.channels.normalized)] = True
        self.possible[list(liveness.channels.pinned)] = False
        self._is_scaled = {}  # value -> whether its channels are those that are multiplied
        self._reads = {}  # path -> whether the layer reads such values, and divides
        self._makes = set()
        for call in liveness.graph.calls if self.possible.any() else ():
            self._trace(call)

    def _trace(self, call):
        layer = unwrap(call.layer)
        row = layer_types.of(layer)
        read = [value for value in call.inputs if self._has_candidates(value)]
        flags = {self._is_scaled[value] for value in read}
        scaled = flags == {True}
        if len(flags) > 1:
            self._deny(call)
        if call.path in self._liveness.linear_maps:
            self._note_linear_map(call, layer, row, scaled)
            scaled = True
        elif read and norms.is_over_channels(layer):
            scaled = self._normalized(call, layer, row, scaled)
        elif read and scaled and not _is_homogeneous(call, layer, row):
            self._deny(call)
        for value in call.outputs:
            self._is_scaled[value] = scaled

    def _has_candidates(self, value):
        channels = self._liveness.channels.of(value)
        return channels is not None and self.possible[channels.groups].any()

    def _deny(self, call):
        for value in [*call.inputs, *call.outputs]:
            channels = self._liveness.channels.of(value)
            if channels is not None:
                self.possible[channels.groups] = False

    def _note(self, call, divides):
        """Notes whether a layer divides. All its calls must do the same, and its weights may change."""
        if self._reads.setdefault(call.path, divides) != divides or (divides and call.path in self._fixed):
            self._deny(call)

    def _note_linear_map(self, call, layer, row, scaled):
        if any(map(self._has_candidates, call.inputs)):
            self._note(call, scaled)
            if scaled and consumed_by(call, self._liveness.channels) is None:
                self._deny(call)
        if any(map(self._has_candidates, call.outputs)):
            self._makes.add(call.path)
            if row.recurrent or call.path in self._fixed or not _has_homogeneous_activation(layer):
                self._deny(call)

    def _normalized(self, call, layer, row, scaled):
        """Returns whether the output is multiplied. Its scale divides, if it has one."""
        if not scaled:  # the statistics of this layer would not change
            self._deny(call)
        has_scale = row.constants is ConstantRule.RMS_NORMALIZED and bool(layer.weights)
        self._note(call, scaled and has_scale)
        return not has_scale

    def apply(self, factors):
        """Multiplies the layers that make channels, and divides those that read them.

        Args:
            factors: Float array, shape `(channel groups,)`. Positive; 1 where it is not `possible`.
        """
        for path in self._makes | {path for path, divides in self._reads.items() if divides}:
            call = self._liveness.graph.calls_of[path][0]
            if path not in self._liveness.linear_maps:
                gamma = call.layer.weights[0]
                groups = self._liveness.channels.of(call.inputs[0]).groups
                gamma.assign((np.array(gamma) / factors[groups]).astype("float32"))
                continue
            linear_map = linear_maps.from_layer(call.layer)
            consumed, produced = self._liveness.groups(path)
            inputs = factors[consumed] if consumed is not None and self._reads.get(path) else None
            linear_map.scale(
                None if inputs is None else 1 / inputs, factors[produced] if path in self._makes else None
            )
            call.layer.set_weights(linear_map.weights())


def _is_homogeneous(call, layer, row):
    """Returns whether a layer without a kernel makes twice the output of twice the input."""
    if row.channels is ChannelRule.MERGED:
        name = functions.name_of(call)
        has_constants = name is not None and functions.operand_shapes(call) != []
        return (name or keras_compat.kind_of(layer)) in _HOMOGENEOUS_MERGES and not has_constants
    if row.channels in _REARRANGING:
        return True
    if row.channels is not ChannelRule.SAME:
        return row.channels is ChannelRule.SHAPE
    if row.constants in (ConstantRule.KEPT, ConstantRule.ZERO_KEPT, ConstantRule.PRELU):
        return True
    if row.constants is not ConstantRule.APPLIED or functions.name_of(call) is not None:
        return False
    return is_elementwise(layer) and _applies_homogeneously(layer, layer)


def _has_homogeneous_activation(layer):
    inner = layer_types.inner(layer)
    activation = getattr(inner, "activation", None)
    return activation is None or (is_elementwise(inner) and _applies_homogeneously(inner, activation))


def _applies_homogeneously(layer, function):
    """Returns whether an elementwise function doubles with its input, at points over many powers of two."""
    once, twice = (
        keras_compat.to_numpy(function(keras_compat.float_tensor(layer, factor * _POINTS[None])))
        for factor in (1.0, 2.0)
    )
    return np.allclose(2 * once, twice, rtol=1e-4, atol=0)
