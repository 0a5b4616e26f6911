"""Coupled channels: groups of channels that can only be removed together.

A channel keeps its group through activations, normalization, pooling, and similar layers. Add couples the
channels of its inputs. Flatten and Reshape spread a channel over several units. A split or slice takes some
channels of its input. A layer whose weights mix its input channels starts new groups. The values of weights
do not matter here. `channel_rules/` has the rules of the types of layers.
"""

import numpy as np

from tfap.graph import attention, composite, functions, layer_types
from tfap.graph.calls import unwrap
from tfap.graph.channel_rules import made, moved, same
from tfap.graph.channel_rules.unanalyzed import why_not_analyzed
from tfap.graph.coupled_channels import Channels, CoupledChannels, is_on_last_axis
from tfap.graph.layer_types import ChannelRule
from tfap.graph.units import InnerKernel

_RULES = {
    ChannelRule.LINEAR: made.linear,
    ChannelRule.DEPTHWISE: made.depthwise,
    ChannelRule.SAME: same.same,
    ChannelRule.ALONG_AXIS: same.along_axis,
    ChannelRule.MERGED: same.merged,
    ChannelRule.CONCATENATED: moved.concatenated,
    ChannelRule.RESHAPED: moved.reshaped,
    ChannelRule.PERMUTED: moved.permuted,
    ChannelRule.STACKED: moved.stacked,
    ChannelRule.SELECTED: moved.selected,
    ChannelRule.CONTRACTED: moved.contracted,
    ChannelRule.SHAPE: moved.sizes,
}


class ChannelMap:
    """The groups of coupled channels of a model, numbered from 0.

    Args:
        graph: A `calls.Graph`.

    Attributes:
        size: Integer. The number of groups.
        pinned: Dict of group to the reason why its channels are not removable.
        centering: Set of those pinned groups that are removable if a LayerNormalization does not need the
            mean; see `norms.py`.
        normalized: Set of the groups that a layer normalizes together, or sums over, so that they can only be
            removed if they are zero.
    """

    def __init__(self, graph):
        coupled = CoupledChannels()
        for value in graph.inputs:
            coupled.channels[value] = None
        for call in graph.calls:
            _trace(call, coupled)
        for path, calls in graph.calls_of.items():
            _couple_calls(calls, coupled)
            inside = composite.counts(unwrap(calls[0].layer))
            coupled.units[path] = {entry: coupled.new(count) for entry, count in inside.items()}
        _couple_nested_calls(graph.entries, coupled)
        for value in graph.outputs:
            coupled.pin_value(value, "it is an output of the model")
        self._number_groups(coupled)

    def of(self, value):
        """Returns the `Channels` of a value. None if they are unknown."""
        return self._of[value]

    def heads(self, path):
        """Returns the groups of the heads of an attention layer. None for other layers."""
        return self._heads.get(path)

    def units_of(self, path):
        """Returns the groups of the units inside a layer: dict of config entry to integer array."""
        return self._units[path]

    def _number_groups(self, coupled):
        labels = coupled.joined()
        self.size = int(labels.max(initial=-1)) + 1
        pinned, centering = _reasons(labels, coupled.pins), _reasons(labels, coupled.centering)
        self.pinned = {**centering, **pinned}
        self.centering = centering.keys() - pinned.keys()
        self.normalized = {int(group) for groups in coupled.normalized for group in labels[groups]}
        self._of = {
            value: None if channels is None else Channels(channels.axis, labels[channels.groups])
            for value, channels in coupled.channels.items()
        }
        self._heads = {path: labels[groups] for path, groups in coupled.heads.items()}
        self._units = {
            path: {entry: labels[groups] for entry, groups in inside.items()}
            for path, inside in coupled.units.items()
        }


def _trace(call, coupled):
    """Finds the channels of a call's outputs."""
    layer = unwrap(call.layer)
    channels = why_not_analyzed(layer, call) or _rule(layer, call)(layer, call, coupled)
    if isinstance(channels, str):
        for value in call.inputs:
            coupled.pin_value(value, channels)
        channels = None
    each = channels if isinstance(channels, list) else [channels] * len(call.outputs)
    coupled.channels.update(zip(call.outputs, each))


def _rule(layer, call):
    row = layer_types.of(layer)
    if row.recurrent:
        return made.recurrent_units
    if row.attention:
        return made.attended
    is_function = functions.name_of(call) is not None
    if is_function and row.channels in (ChannelRule.SAME, ChannelRule.MERGED):
        return same.elementwise
    return _RULES[row.channels]


def _couple_calls(calls, coupled):
    """Couples the channels of all calls of a layer that has weights or a fixed output shape."""
    layer = calls[0].layer
    has_sizes = (
        getattr(layer, "weights", None) or hasattr(layer, "target_shape") or functions.has_sizes(calls[0])
    )
    if len(calls) == 1 or not has_sizes:
        return
    for call in calls[1:]:
        for value, first in zip(call.inputs + call.outputs, calls[0].inputs + calls[0].outputs):
            coupled.couple_values(value, first)


def _couple_nested_calls(entries, coupled):
    """Couples the inputs of all calls of a nested model."""
    first_inputs = {}
    for model, inputs in entries:
        for value, first in zip(inputs, first_inputs.setdefault(id(model), inputs)):
            coupled.couple_values(value, first)


def _reasons(labels, pins):
    """Returns the first reason of each group."""
    found = {}
    for groups, reason in pins:
        for group in np.unique(labels[groups]):
            found.setdefault(int(group), reason)
    return found


def consumed_by(call, channel_map):
    """Returns the `Channels` that a layer with a linear map consumes. None if they are on another axis.

    Those of an attention layer are the channels of its query, then of its key, then of its value.
    """
    if layer_types.of(unwrap(call.layer)).attention:
        return _consumed_by_heads(call, channel_map)
    consumed, produced = (channel_map.of(value) for value in (call.inputs[0], call.outputs[0]))
    if consumed is None or produced is None:
        return None
    is_last = layer_types.of(unwrap(call.layer)).recurrent
    axis = len(call.inputs[0].shape) - 1 if is_last else produced.axis
    return consumed if consumed.axis == axis else None


def produced_by(call, spec, neurons, channel_map):
    """Returns the groups of the neurons that a kernel produces. None if they are not channels of the output.

    The neurons of attention layers may be heads, of which several may share keys and values, and those of
    composite layers the units inside.

    Args:
        call: The `Call` of its layer.
        spec: Its `KernelSpec`.
        neurons: Integer. The number of its neurons.
        channel_map: The `ChannelMap` of the graph.
    """
    if isinstance(spec, InnerKernel):
        return channel_map.units_of(call.path).get(spec.units)
    if spec.heads:
        heads = channel_map.heads(call.path)
        return None if heads is None else heads.repeat(neurons // len(heads))
    produced = channel_map.of(call.outputs[0]) if spec.makes_channels else None
    groups = None if produced is None else spec.of_output(produced.groups, neurons)
    return groups if groups is not None and len(groups) == neurons else None


def _consumed_by_heads(call, channel_map):
    values = attention.consumed(call)
    parts = [channel_map.of(value) for value in values]
    on_last_axis = all(is_on_last_axis(part, value) for part, value in zip(parts, values))
    if channel_map.of(call.outputs[0]) is None or not on_last_axis:
        return None
    return Channels(parts[0].axis, np.concatenate([part.groups for part in parts]))
