"""Kept channels: those that are constant or disconnected, but not removable, and why."""

import collections
import dataclasses

import numpy as np

from tfap.graph import attention, composite, functions, layer_types, linear, misread, norms, recurrent
from tfap.graph.calls import unwrap
from tfap.graph.channels import consumed_by
from tfap.graph.kept_heads import kept_heads
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.layer_types import ChannelRule, ConstantRule
from tfap.graph.units import InnerKernel


@dataclasses.dataclass(frozen=True)
class Kept:
    """Channels of a layer that are constant or disconnected, but not removable.

    Attributes:
        path: String. Path of the layer.
        channels: Integer. The number of these channels.
        reason: String. Why they are kept.
    """

    path: str
    channels: int
    reason: str


def kept_channels(liveness, kept_groups=None):
    """Lists the `Kept` channels by layer and reason.

    Args:
        liveness: A `liveness.Liveness`.
        kept_groups: Boolean array, shape `(channel groups,)`. The groups to keep: those alive, and those that
            the shapes of layers require. None only keeps those alive.
    """
    kept_groups = liveness.alive if kept_groups is None else kept_groups
    reasons = _Reasons(liveness, kept_groups)
    counts, listed = collections.Counter(), set()
    for path in [*liveness.linear_maps, *liveness.depthwise]:
        for group in reasons.without_effect(path):
            # A depthwise channel is removed together with the channel that it consumes.
            if path in liveness.linear_maps or group not in listed:
                counts[path, reasons.of(path, group)] += 1
            listed.add(group)
    for path, layer in liveness.graph.layers():
        if liveness.linear_map(path) is None:
            count = liveness.neurons_without_weights(path, layer)
            if count:
                counts[path, _why_not_analyzed(layer, liveness.graph.calls_of[path][0])] += count
    for path, count, reason in kept_heads(liveness, kept_groups):
        counts[path, reason] += count
    return [Kept(path, count, reason) for (path, reason), count in counts.items()]


class _Reasons:
    """Finds the channels to list, and the reasons."""

    def __init__(self, liveness, kept_groups):
        self._liveness, self._kept = liveness, kept_groups
        self._graph, self._channels = liveness.graph, liveness.channels
        self._constants = liveness.constants
        self._sums = misread.Sums(liveness)
        self._used = {}  # Value -> which of its channels vary and reach an output
        for call in reversed(self._graph.calls):
            for value in call.outputs:
                self._used[value] = self._find_used(value)

    def without_effect(self, path):
        """Returns the kept groups of a layer's channels that are constant or disconnected."""
        calls = self._graph.calls_of[path]
        groups = self._channels.of(calls[0].outputs[0]).groups
        used = np.logical_or.reduce([self._used[call.outputs[0]] for call in calls])
        unfed = self._constants.unfed(path)
        if self._liveness.is_recurrent(path):
            used, unfed = (
                self._over_time(path, calls, groups, used),
                np.isin(groups, groups[~unfed], invert=True),
            )
        return [int(group) for group in groups[self._kept[groups] & (~used | unfed)]]

    def _over_time(self, path, calls, groups, used):
        """Returns which units of a recurrent layer reach an output, by its states or by other units too."""
        states = [value for call in calls for value in call.outputs[1:]]
        reached = [self._channels.of(value).groups[self._used[value]] for value in states]
        reads = self._liveness.linear_maps[path].recurrence
        used = np.isin(groups, np.concatenate([groups[used], *reached]))
        while True:
            before = used
            used = np.isin(groups, groups[before | reads[:, before].any(axis=1)])
            if np.array_equal(used, before):
                return used

    def _find_used(self, value):
        channels, constants = self._channels.of(value), self._constants.of(value)
        if channels is None:
            return None
        used = np.full(len(channels.groups), value in self._graph.outputs)
        for call, _ in value.consumers:
            used |= self._used_by(call, channels, value)
        return used if constants is None else used & ~constants.known

    def _used_by(self, call, channels, value):
        produced = self._channels.of(call.outputs[0])
        linear_map = self._liveness.linear_map(call.path)
        if produced is None or (linear_map and consumed_by(call, self._channels) is None):
            return np.ones(len(channels.groups), bool)
        if call.path in self._liveness.linear_maps:
            used = linear_map.nonzero[:, self._liveness.alive[produced.groups]].any(axis=1)
            if self._channels.heads(call.path) is None:
                return used
            parts = zip(attention.consumed(call), linear_map.by_role(used))
            return np.logical_or.reduce([part for consumed, part in parts if consumed is value])
        if len(call.outputs) > 1:  # a split: each output has channels of its own
            of_outputs = [self._channels.of(value).groups[self._used[value]] for value in call.outputs]
            return np.isin(channels.groups, np.concatenate(of_outputs))
        used = self._used[call.outputs[0]]
        if norms.is_over_channels(unwrap(call.layer)):  # each channel changes all others
            return np.full(len(channels.groups), used.any())
        if call.path in self._liveness.depthwise:
            return (linear_map.nonzero & used.reshape(linear_map.nonzero.shape)).any(axis=1)
        # A channel that the call does not carry on, such as a gate that multiplies all channels, is pinned.
        carried = np.isin(channels.groups, produced.groups)
        if layer_types.of(unwrap(call.layer)).channels is ChannelRule.CONTRACTED:
            return ~carried | np.isin(channels.groups, produced.groups[used])
        pinned = np.isin(channels.groups, list(self._channels.pinned))
        return np.isin(channels.groups, produced.groups[used]) | (~carried & pinned & used.any())

    def of(self, path, group):
        """Returns why a channel is kept."""
        if not self._liveness.alive[group]:
            return self._why_required(path, group)
        if any(self._has(value, group) for value in self._graph.outputs):
            return "it is an output of the model"
        if group in self._channels.pinned:
            return self._channels.pinned[group]
        for consumer in self._liveness.linear_maps:
            reason = self._why_needed_by(consumer, group)
            if reason:
                return reason
        for call in self._graph.calls:
            if self._is_known(call.inputs[0], group) and not self._is_known(call.outputs[0], group):
                reason = _why_not_constant(call, self._has_nonzero_constant(call.inputs[0], group))
                if reason:
                    return reason
        return "it is coupled with channels that are not constant"

    def _why_required(self, path, group):
        produced = self._liveness.groups(path)[1]
        if self._sums.is_needed(self._kept, group):
            return misread.REASON
        if self._liveness.alive[produced].any():
            return "a grouped convolution needs groups of equal size"
        return "a layer needs at least one unit"

    def _why_needed_by(self, path, group):
        """Returns why a layer cannot fold a constant channel. None if it does not need the channel."""
        liveness = self._liveness
        consumed, produced = liveness.groups(path)
        if consumed is None or group not in consumed:
            return None
        calls = self._graph.calls_of[path]
        needed = liveness.linear_maps[path].nonzero[:, liveness.alive[produced]].any(axis=1)
        foldable = liveness.foldable_inputs(path)
        if foldable is not None:
            needed &= ~foldable.known
        at_group = needed & (consumed == group)
        if not any(self._constants.inputs_of([call]).known[at_group].any() for call in calls):
            return None
        if not (self._constants.inputs_of(calls).known & at_group).any():
            return f"'{path}' has several calls, in which it does not have the same constant"
        if not liveness.may_change(path):
            return f"'{path}' consumes it and is not pruned with remove_disconnected"
        if not liveness.may_have_bias(path):
            return f"it is a nonzero constant, and '{path}' has no bias to fold it into"
        return f"it is a nonzero constant, which '{path}' cannot fold into its bias because of padding"

    def _has(self, value, group):
        channels = self._channels.of(value)
        return channels is not None and group in channels.groups

    def _known(self, value):
        constants = self._constants.of(value)
        return np.zeros(len(self._channels.of(value).groups), bool) if constants is None else constants.known

    def _is_known(self, value, group):
        """Returns whether a channel of this group is constant in a value."""
        return self._has(value, group) and self._known(value)[self._channels.of(value).groups == group].any()

    def _has_nonzero_constant(self, value, group):
        constants = self._constants.of(value)
        return (constants.known & ~constants.zero)[self._channels.of(value).groups == group].any()


def _why_not_constant(call, is_nonzero):
    """Returns why a constant channel is not constant after a layer. None if other channels are the reason."""
    layer = unwrap(call.layer)
    row = layer_types.of(layer)
    is_depthwise = row.channels is ChannelRule.DEPTHWISE
    if is_nonzero and (row.constants is ConstantRule.ZERO_KEPT or (is_depthwise and _pads(layer))):
        return f"it is a nonzero constant, and '{call.path}' pads it with zeros"
    if row.channels is ChannelRule.SAME and row.constants is ConstantRule.PRELU:
        return f"'{call.path}' multiplies it by several slopes"
    if norms.is_over_channels(layer):
        return f"'{call.path}' divides it by a number that depends on the other channels"
    if row.channels is ChannelRule.CONTRACTED and is_nonzero:
        return f"it is a nonzero constant, and '{call.path}' multiplies it with values that vary"
    if row.channels is ChannelRule.ALONG_AXIS or (is_nonzero and functions.adds_up(call)):
        return f"'{call.path}' may not keep it constant"
    if row.channels is ChannelRule.SAME and row.constants is None:
        return f"'{call.path}' ({type(layer).__name__}) may not keep it constant"
    if row.channels in (ChannelRule.RESHAPED, ChannelRule.CONCATENATED):
        return f"'{call.path}' joins it with channels that do not have the same constant"
    return None


def _pads(layer):
    inner = layer_types.inner(layer)
    return not linear.is_uniform(inner, inner.kernel_size)


def _why_not_analyzed(layer, call):
    row = layer_types.of(layer)
    reason = layer_types.why_not_prunable(layer)
    if reason:
        return reason
    if row.channels is None:
        kind = type(layer).__name__
        inside = f"tfap keeps the heads and the outputs inside {kind} layers"
        return inside if composite.counts(layer) else f"tfap does not analyze {kind} layers"
    if misread.is_misread(call):
        return "Keras 3 on TensorFlow adds its bias to another axis"
    if row.recurrent or row.attention:
        which = (recurrent if row.recurrent else attention).why_not_analyzed(layer, call)
        return f"tfap does not analyze {type(layer).__name__} layers {which}"
    if hasattr(layer, "equation"):
        return f"tfap does not analyze the equation {layer.equation}"
    return "the layer has more weights than a kernel and a bias"


def neurons_without_weights(path, layer, masks):
    """Counts the neurons of a layer of which all weights are zero, in its kernels.

    Units inside a composite layer do not count if it can be rebuilt with fewer of them.

    Args:
        path: Path of the layer.
        layer: A layer of any type.
        masks: Dict of weight name to mask. None uses the values of the weights.
    """
    dead, removable = {}, composite.counts(layer)
    for spec in layer_types.kernel_specs(layer):
        entry = spec.units if isinstance(spec, InnerKernel) else None
        if entry in removable:
            continue
        weights = spec.find(layer)
        if weights is None or (masks is not None and spec.name not in masks):
            continue
        weights = np.array(weights)
        nonzero = weights != 0 if masks is None else np.asarray(masks[spec.name]) != 0
        sums = Kernel(path, spec, weights, nonzero).neuron_sums(nonzero.astype(np.int64))
        # The kernels of one inner layer, such as an LSTM cell, have the same neurons.
        inner = entry or spec.name.rpartition(".")[0], neuron_count(spec, weights.shape)
        dead[inner] = dead.get(inner, True) & (sums == 0)
    return int(sum(np.sum(marks) for marks in dead.values()))
