"""Liveness: which channels the outputs of a model depend on.

A group of coupled channels is alive if one of its channels

- is an output of the model,
- is consumed by a layer that tfap does not analyze, or
- is consumed, with a nonzero weight, for an output channel that is alive, and is not a constant that can be
  folded into the bias, or
- is a unit of a recurrent layer that a unit that is alive reads at the next time step,
- is normalized together with a channel that is alive, and changes how; see `norms.py`, or
- is summed over in a product of tensors, and not zero in any of them; see `contractions.py`.

All other groups are removable. In a model in training, only masked weights count as zero, because the others
may change.
"""

import numpy as np

from tfap.graph import composite, constants, contractions, layer_types, linear_maps, norms
from tfap.graph.calls import Graph
from tfap.graph.centered import CenteredValues
from tfap.graph.channels import ChannelMap, consumed_by
from tfap.graph.kept import kept_channels, neurons_without_weights
from tfap.graph.layer_types import ChannelRule


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
        for path, calls in self.graph.calls_of.items():
            if self.channels.heads(path) is not None:
                self.linear_maps[path].note_calls(calls)
        self.depthwise = self._linear_maps(ChannelRule.DEPTHWISE)
        training = masks is not None
        self._centered = () if training else CenteredValues(self.graph, self.channels, self.linear_maps)
        self.constants = constants.ConstantMap(
            self.graph,
            self.channels,
            {**self.linear_maps, **self.depthwise},
            silent,
            training,
            self._centered,
        )
        self.alive = self._alive()

    def _linear_maps(self, rule):
        return {
            path: linear_maps.from_layer(layer, None if self._masks is None else self._masks.get(path, {}))
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
        if produced is not None and self.linear_map(path):
            # A linear map whose input channels are on another axis does not consume them as channels.
            consumed = consumed_by(call, self.channels)
        return (
            None if consumed is None else consumed.groups,
            None if produced is None else produced.groups,
        )

    def inner_units(self):
        """Yields `(path, config entry, groups)` of the units inside composite layers."""
        for path in self.graph.calls_of:
            for entry, groups in self.channels.units_of(path).items():
                yield path, entry, groups

    def linear_map(self, path):
        """Returns the `linear.LinearMap` of a layer. None for other layers."""
        return self.linear_maps.get(path) or self.depthwise.get(path)

    def is_recurrent(self, path):
        """Returns whether a layer with a linear map reads its own output."""
        return layer_types.of(self.linear_map(path).layer).recurrent

    def foldable_inputs(self, path):
        """Returns the `Constants` that can be folded into the bias of a layer. None if there are none.

        Args:
            path: Path of a layer with a linear map.
        """
        inputs = self.constants.inputs_of(self.graph.calls_of[path])
        if inputs is None or not self.may_change(path):
            return None
        known = inputs.foldable_into(self.linear_map(path)) if self.may_have_bias(path) else inputs.zero
        return constants.Constants.of(known, inputs.values)

    def may_change(self, path):
        """Returns whether a layer may lose more weights."""
        return self._masks is None or path in self._may_change

    def may_have_bias(self, path):
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
        alive[list(self.channels.pinned.keys() - self._not_needed_for_means())] = True
        for path, entry, groups in self.inner_units():
            masks = None if self._masks is None else self._masks.get(path, {})
            alive[groups[composite.needed(self.graph.calls_of[path][0].layer, entry, masks)]] = True
        for call in self.graph.calls:
            if layer_types.of(call.layer).channels is ChannelRule.CONTRACTED:
                for groups, zero in contractions.summed_zeros(call, self.channels.of, self.constants.of):
                    alive[groups[~zero]] = True
        dependencies = list(self._dependencies())
        while True:
            before = alive.copy()
            for consumed, produced, needed in reversed(dependencies):  # from the outputs: mostly one round
                alive[consumed[needed[:, alive[produced]].any(axis=1)]] = True
            if np.array_equal(alive, before):
                return alive

    def _dependencies(self):
        """Yields the input groups, the output groups, and `_needed` of every layer with a linear map."""
        for path in self.graph.calls_of:
            consumed, produced = self.groups(path)
            heads = self.channels.heads(path)
            if heads is not None:
                yield heads, produced, self.linear_maps[path].head_outputs
            if path in self.linear_maps and consumed is not None:
                yield consumed, produced if heads is None else heads, self._needed(path)
            if path in self.linear_maps and self.is_recurrent(path):
                yield produced, produced, self.linear_maps[path].recurrence

            if produced is not None and norms.is_over_channels(self.graph.calls_of[path][0].layer):
                yield self._normalized(path)

    def _normalized(self, path):
        """Returns the same of a layer that normalizes each channel with all others."""
        layer, groups = self.graph.calls_of[path][0].layer, self.groups(path)[1]
        inputs = self.constants.inputs_of(self.graph.calls_of[path])
        needed = ~norms.without_effect(layer, inputs.known, inputs.zero)
        return groups, groups, np.repeat(needed[:, None], len(groups), axis=1)

    def _not_needed_for_means(self):
        """Returns the groups of which a LayerNormalization needs no mean, because it is always zero."""
        centering = self.channels.centering
        for call in self.graph.calls if centering else ():
            groups = self.channels.of(call.inputs[0]) if norms.subtracts_mean(call.layer) else None
            has_scale = getattr(call.layer, "gamma", None) is not None
            if groups is not None and not (has_scale and call.inputs[0] in self._centered):
                centering = centering - set(groups.groups.tolist())
        return centering

    def _needed(self, path):
        """Returns which inputs each output depends on: boolean array, shape `(inputs, outputs)`.

        For an attention layer, which inputs each head depends on.
        """
        linear_map, foldable = self.linear_maps[path], self.foldable_inputs(path)
        nonzero = linear_map.nonzero if self.channels.heads(path) is None else linear_map.reads
        return nonzero if foldable is None else nonzero & ~foldable.known[:, None]

    # -- what is kept --------------------------------------------------------------------------------

    def kept(self, kept_groups=None):
        """Lists the channels that are constant or disconnected, but kept. See `kept.kept_channels`."""
        return kept_channels(self, kept_groups)

    def neurons_without_weights(self, path, layer):
        """Counts the neurons of a layer without nonzero weights. See `kept.neurons_without_weights`."""
        masks = None if self._masks is None else self._masks.get(path, {})
        return neurons_without_weights(path, layer, masks)
