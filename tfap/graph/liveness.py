"""Liveness: which channels the outputs of a model depend on.

A group of coupled channels is alive if one of its channels

- is an output of the model,
- is consumed by a layer that tfap does not analyze, or
- is consumed, with a nonzero weight, for an output channel that is alive, and is not a constant that can be
  folded into the bias.

All other groups are removable. In a model in training, only masked weights count as zero, because the others
may change.
"""

import dataclasses

import numpy as np

from tfap.graph import constants, layer_types, linear
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap
from tfap.graph.layer_types import ChannelRule, ConstantRule


@dataclasses.dataclass(frozen=True)
class Kept:
    """Constant channels of a layer that are not removable.

    Attributes:
        path: String. Path of the layer.
        channels: Integer. The number of these channels.
        reason: String. Why they are kept.
    """

    path: str
    channels: int
    reason: str


class Liveness:
    """Finds the channels that the outputs of a Sequential or Functional model depend on.

    Args:
        model: A model without wrappers or, with `masks`, with wrappers.
        silent: See `constants.ConstantMap`.
        masks: Dict of path to `{weight name: mask}`, for the pruned layers of a model in training. None uses
            the values of the weights.
        may_change: Set of paths of the layers that may lose more weights. Without `masks`, every layer may,
            and it may get a bias.

    Attributes:
        graph: The `calls.Graph` of the model.
        channels: The `ChannelMap` of the graph.
        linear_maps: Dict of path to `linear.LinearMap`, without depthwise layers.
        depthwise: Dict of path to `linear.Depthwise`.
        constants: The `constants.ConstantMap` of the graph.
        alive: Boolean array, shape `(channel groups,)`.
    """

    def __init__(self, model, silent=None, masks=None, may_change=()):
        self.graph = Graph(model, plain=True)
        self.channels = ChannelMap(self.graph)
        self._masks, self._may_change = masks, may_change
        self.linear_maps = self._linear_maps(ChannelRule.LINEAR)
        self.depthwise = self._linear_maps(ChannelRule.DEPTHWISE)
        self.constants = constants.ConstantMap(
            self.graph,
            self.channels,
            {**self.linear_maps, **self.depthwise},
            silent,
            training=masks is not None,
        )
        self.alive = self._alive()

    def _linear_maps(self, rule):
        return {
            path: linear.from_layer(layer, None if self._masks is None else self._masks.get(path, {}))
            for path, layer in self.graph.layers()
            if layer_types.of(layer).channels is rule and self.channels.of(self._output(path)) is not None
        }

    def _output(self, path):
        return self.graph.calls_of[path][0].outputs[0]

    def groups(self, path):
        """Returns the groups of a layer's input channels and of its output channels. None if unknown."""
        call = self.graph.calls_of[path][0]
        consumed = self.channels.of(call.inputs[0]) if call.inputs else None
        produced = self.channels.of(call.outputs[0])
        if consumed is not None and produced is not None and self.linear_map(path):
            # A linear map whose input channels are on another axis does not consume them as channels.
            consumed = consumed if consumed.axis == produced.axis else None
        return (
            None if consumed is None else consumed.groups,
            None if produced is None else produced.groups,
        )

    def linear_map(self, path):
        """Returns the `linear.LinearMap` of a layer. None for other layers."""
        return self.linear_maps.get(path) or self.depthwise.get(path)

    def foldable_inputs(self, path):
        """Returns the `Constants` that can be folded into the bias of a layer. None if there are none.

        Args:
            path: Path of a layer with a linear map.
        """
        inputs = self.constants.inputs_of(self.graph.calls_of[path])
        if inputs is None or not self.may_change(path):
            return None
        known = inputs.foldable_into(self.linear_map(path)) if self._may_have_bias(path) else inputs.zero
        return constants.Constants.of(known, inputs.values)

    def may_change(self, path):
        """Returns whether a layer may lose more weights."""
        return self._masks is None or path in self._may_change

    def _may_have_bias(self, path):
        """Returns whether a layer has a bias or can be rebuilt with one. Wrapped layers are not rebuilt."""
        linear_map = self.linear_map(path)
        can_get_bias = self._masks is None and layer_types.of(linear_map.layer).adds_bias
        return linear_map.bias is not None or can_get_bias

    def folded(self, path, removable):
        """Clears the weights of some inputs of a layer and of its outputs that are not alive.

        Constants among these inputs are folded into the bias of the outputs that are alive. Call this once
        per layer, because it changes the linear map in place.

        Args:
            path: Path of a layer with a linear map.
            removable: Boolean array, shape `(inputs,)`. The inputs to clear.

        Returns:
            The `linear.LinearMap`.
        """
        linear_map, foldable = self.linear_map(path), self.foldable_inputs(path)
        outputs = self.alive[self.groups(path)[1]]
        if foldable is not None:
            inputs = foldable.known & (foldable.values != 0) & removable
            linear_map.fold(inputs, foldable.values, outputs)
        linear_map.clear(removable, ~outputs)
        return linear_map

    def _alive(self):
        alive = np.zeros(self.channels.size, bool)
        alive[list(self.channels.pinned)] = True
        dependencies = list(self._dependencies())
        while True:
            before = alive.copy()
            for consumed, produced, needed in reversed(dependencies):  # from the outputs: mostly one round
                alive[consumed[needed[:, alive[produced]].any(axis=1)]] = True
            if np.array_equal(alive, before):
                return alive

    def _dependencies(self):
        """Yields the input groups, the output groups, and `_needed` of every layer with a linear map."""
        for path in self.linear_maps:
            consumed, produced = self.groups(path)
            if consumed is not None:
                yield consumed, produced, self._needed(path)

    def _needed(self, path):
        """Returns which inputs each output depends on: boolean array, shape `(inputs, outputs)`."""
        nonzero, foldable = self.linear_maps[path].nonzero, self.foldable_inputs(path)
        return nonzero if foldable is None else nonzero & ~foldable.known[:, None]

    # -- why constant channels are kept --------------------------------------------------------------

    def kept(self):
        """Returns a list of `Kept`: the constant channels that are not removable, by layer and reason."""
        counts = {}
        for path in self.linear_maps:
            _, produced = self.groups(path)
            constant = self.constants.of(self._output(path)).known & self.alive[produced]
            for group in produced[constant]:
                key = path, self._why_kept(int(group))
                counts[key] = counts.get(key, 0) + 1
        return [Kept(path, count, reason) for (path, reason), count in counts.items()]

    def _why_kept(self, group):
        if group in self.channels.pinned:
            return self.channels.pinned[group]
        for consumer in self.linear_maps:
            reason = self._why_needed_by(consumer, group)
            if reason:
                return reason
        for call in self.graph.calls:
            if _pads(call) and self._has_nonzero_constant(call.inputs[0], group):
                return f"it is a nonzero constant, and '{call.path}' pads it with zeros"
        return "it is coupled with channels that are not constant"

    def _why_needed_by(self, path, group):
        """Returns why a layer cannot fold a constant channel. None if it does not need the channel."""
        consumed, produced = self.groups(path)
        if consumed is None or group not in consumed:
            return None
        inputs = self.constants.inputs_of(self.graph.calls_of[path])
        needed = self._needed(path)[:, self.alive[produced]].any(axis=1)
        if not (inputs.known & needed)[consumed == group].any():
            return None
        if not self.may_change(path):
            return f"'{path}' consumes it and is not pruned with remove_disconnected"
        if not self._may_have_bias(path):
            return f"it is a nonzero constant, and '{path}' has no bias to fold it into"
        return f"it is a nonzero constant, which '{path}' cannot fold into its bias because of padding"

    def _has_nonzero_constant(self, value, group):
        channels, inputs = self.channels.of(value), self.constants.of(value)
        return inputs is not None and bool((inputs.known & ~inputs.zero)[channels.groups == group].any())


def _pads(call):
    """Returns whether a layer without a `LinearMap` in `linear_maps` pads its input with zeros."""
    layer = unwrap(call.layer)
    row = layer_types.of(layer)
    if row.channels is ChannelRule.DEPTHWISE:
        return not linear.is_uniform(layer, layer.kernel_size)
    return row.constants is ConstantRule.ZERO_KEPT
