"""Layers and functions that move channels: to other places or axes, next to others, or out of a tensor."""

import math

import numpy as np

from tfap.graph import contractions, functions, layer_types, reshaping
from tfap.graph.channel_rules.unanalyzed import unknown
from tfap.graph.coupled_channels import Channels


def concatenated(layer, call, coupled):
    along = functions.concatenation_axis(call)
    if along is None:
        return f"'{call.path}' concatenates it with constants"
    known = coupled.known(call.inputs)
    if not known or any(channels.axis != known[0].axis for channels in known):
        return f"'{call.path}' concatenates it with channels on another axis"
    axis = known[0].axis
    reason = f"'{call.path}' concatenates it with channels that are not removable"
    parts = [coupled.along(value, axis, reason) for value in call.inputs]
    if along == axis:
        return Channels(axis, np.concatenate(parts))
    for part in parts[1:]:
        coupled.couple(parts[0], part)
    return Channels(axis, parts[0])


def reshaped(layer, call, coupled):
    value, shape = call.inputs[0], call.outputs[0].shape
    channels = coupled.of(value)
    if channels is None:
        return None
    if not functions.has_fixed_shape(call):
        return f"'{call.path}' reshapes it to a shape that is computed"
    inner = layer_types.inner(layer)
    if inner is not layer and reshaping.channels_first_flatten(inner):
        return f"'{call.path}' moves the channels of each time step"
    if reshaping.keeps_last_axis(layer, channels.axis, value.shape, shape):
        return Channels(len(shape) - 1, channels.groups)
    if None in value.shape[1:] or None in shape[1:]:
        return f"'{call.path}' reshapes it, and its shape has undefined dimensions"
    if math.prod(value.shape[1:]) != math.prod(shape[1:]):
        return f"'{call.path}' reshapes it together with the batch"
    channels_first = reshaping.channels_first_flatten(layer)
    flat = reshaping.spread(channels.groups, channels.axis, value.shape, channels_first)
    elements = flat.reshape(shape[1:])
    axis = reshaping.unit_axis(elements)
    units = reshaping.by_unit(elements, axis)
    for row in units[1:]:
        coupled.couple(units[0], row)
    return Channels(axis + 1, units[0])


def permuted(layer, call, coupled):
    channels = coupled.of(call.inputs[0])
    if channels is None:
        return None
    if len(call.inputs) > 1:
        return unknown(layer, call)
    axes = functions.moved_axes(call)
    if axes[:1] != [0]:
        return f"'{call.path}' moves the batch axis or combines samples"
    if channels.axis not in axes:
        return f"'{call.path}' combines its channels"
    return Channels(axes.index(channels.axis), channels.groups)


def stacked(layer, call, coupled):
    new_axis = functions.stacking_axis(call)
    known = coupled.known(call.inputs)
    if new_axis is None or not known or any(channels.axis != known[0].axis for channels in known):
        return f"'{call.path}' stacks it with other values than channels on the same axis"
    if new_axis == 0:
        return f"'{call.path}' moves the batch axis"
    axis = known[0].axis
    reason = f"'{call.path}' stacks it with channels that are not removable"
    parts = [coupled.along(value, axis, reason) for value in call.inputs]
    for part in parts[1:]:
        coupled.couple(parts[0], part)
    return Channels(axis + (new_axis <= axis), parts[0])


def selected(layer, call, coupled):
    channels = coupled.of(call.inputs[0])
    if channels is None:
        return None
    if len(call.inputs) > 1:
        return unknown(layer, call)
    found = functions.selected(call, channels.axis)
    if isinstance(found, str):
        return found
    axis, selections = found
    return [Channels(axis, channels.groups[selection]) for selection in selections]


def contracted(layer, call, coupled):
    found = contractions.operands(call)
    if isinstance(found, str):
        return found
    values, result = found
    passed = {}  # axis of the result -> groups
    for value, labels in values:
        channels = coupled.of(value)
        if channels is None:
            continue
        label = labels[channels.axis]
        _couple_operands(call, values, label, channels.groups, coupled)
        if label in result:
            passed.setdefault(result.index(label), channels.groups)
        else:
            coupled.normalized.append(channels.groups)
    for groups in list(passed.values())[1:]:
        coupled.pin(groups, f"'{call.path}' moves it to another axis than that of other channels")
    return next((Channels(axis, groups) for axis, groups in passed.items()), None)


def sizes(layer, call, coupled):
    channels = coupled.of(call.inputs[0])
    if channels is not None and not functions.is_size_of_other_axes(call, channels.axis):
        return f"'{call.path}' reads its shape"
    return None


def _couple_operands(call, values, label, groups, coupled):
    """Couples the channels of all tensors that have them on the same label."""
    reason = f"'{call.path}' multiplies it with values that are not removable"
    for value, labels in values:
        if labels.count(label) > 1 or (label in labels and value.shape[labels.index(label)] != len(groups)):
            coupled.pin(groups, reason)
        elif label in labels:
            coupled.couple(groups, coupled.along(value, labels.index(label), reason))
