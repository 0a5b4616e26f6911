"""Layers and functions whose channel j depends on channel j of each input only."""

from tfap.graph import functions, layer_types, norms
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import channel_axis
from tfap.graph.channel_rules.unanalyzed import unknown
from tfap.graph.coupled_channels import Channels
from tfap.graph.layer_types import ConstantRule

_NORMALIZING = (ConstantRule.NORMALIZED, ConstantRule.GROUP_NORMALIZED, *layer_types.OVER_CHANNELS)


def same(layer, call, coupled):
    value, result = call.inputs[0], call.outputs[0]
    channels = coupled.of(value)
    if not is_elementwise(layer):
        return f"the activation '{call.path}' may combine channels"
    if channels is None:
        return None
    reason = _why_not_followed(layer, call, channels)
    if reason is not None:
        return reason
    last = channels.axis == len(value.shape) - 1
    new_axis = len(result.shape) - 1 if last else channels.axis
    if new_axis >= len(result.shape) or result.shape[new_axis] != len(channels.groups):
        return f"'{call.path}' changes the number of channels"
    if layer_types.of(layer).constants is ConstantRule.GROUP_NORMALIZED:
        _couple_normalized(layer, call, channels.groups, coupled)
    if norms.is_over_channels(layer):
        if norms.why_not_analyzed(layer) is not None:
            return f"tfap does not analyze the layer '{call.path}' {norms.why_not_analyzed(layer)}"
        _note_normalized(layer, call, channels.groups, coupled)
    return Channels(new_axis, channels.groups)


def along_axis(layer, call, coupled):
    channels = coupled.of(call.inputs[0])
    if channels is None:
        return None
    if len(call.inputs) > 1:
        return unknown(layer, call)
    if channels.axis in functions.axes_of(call):
        return f"the activation '{call.path}' may combine channels"
    return channels


def merged(layer, call, coupled):
    shape = call.outputs[0].shape
    known = coupled.known(call.inputs)
    same_rank = all(len(value.shape) == len(shape) for value in call.inputs)
    if not known or not same_rank or any(channels.axis != known[0].axis for channels in known):
        return f"'{call.path}' merges it with channels on another axis"
    axis = known[0].axis
    reason = f"'{call.path}' merges it with channels that are not removable"
    made = coupled.new(shape[axis])
    for value in call.inputs:
        if value.shape[axis] == shape[axis]:
            coupled.couple(made, coupled.along(value, axis, reason))
        else:
            coupled.pin_value(value, f"'{call.path}' broadcasts it to all channels")
    return Channels(axis, made)


def elementwise(layer, call, coupled):
    """Follows channels through a function of one tensor or several, and constants such as in `x + 1`."""
    shapes, ndim = functions.operand_shapes(call), len(call.outputs[0].shape)
    if shapes is None or not call.inputs:
        return f"'{call.path}' has arguments that tfap does not analyze"
    for channels in coupled.known(call.inputs):
        from_end = ndim - channels.axis
        if any(len(shape) >= from_end and shape[-from_end] != 1 for shape in shapes):
            return f"'{call.path}' has a constant for each of its channels"
    rule = same if len(call.inputs) == 1 else merged
    return rule(layer, call, coupled)


def _why_not_followed(layer, call, channels):
    """Returns why a layer with one input may not leave each channel to itself. None if it does."""
    value = call.inputs[0]
    axis = _axis_of_layer(layer, value)
    if axis is None:
        return f"'{call.path}' normalizes several axes"
    if getattr(layer, "pad_to_aspect_ratio", False):
        return f"'{call.path}' pads it"
    if axis and axis != channels.axis:
        return f"'{call.path}' works along another axis than that of the channels"
    inner = layer_types.inner(layer)
    noise_shape, at = getattr(inner, "noise_shape", None), channels.axis - (inner is not layer)
    if noise_shape is not None and noise_shape[at] not in (None, 1):
        return f"the noise_shape of '{call.path}' contains the number of channels"
    return None


def _axis_of_layer(layer, value):
    """Returns the axis along which a layer works. 0 if it works on all, None if on several."""
    inner, ndim = layer_types.inner(layer), len(value.shape)
    if layer_types.of(layer).constants in _NORMALIZING:
        # An integer in Keras 3, a list in tf_keras.
        axes = [inner.axis] if isinstance(inner.axis, int) else list(inner.axis)
        if len(axes) > 1:
            return None
        outer = axes[0] + (inner is not layer and axes[0] > 0)
        return outer % ndim
    spatial = hasattr(inner, "data_format") and ndim > 2
    return channel_axis(layer) % ndim if spatial else 0


def _couple_normalized(layer, call, groups, coupled):
    """Couples the channels that a GroupNormalization normalizes together: all of them are removed or none."""
    if layer.groups == 1:
        coupled.pin(groups, f"'{call.path}' normalizes all channels together")
    members = groups.reshape(layer.groups, -1)
    for member in members.T[1:]:
        coupled.couple(members.T[0], member)


def _note_normalized(layer, call, groups, coupled):
    """Notes the channels over which a LayerNormalization or a similar layer normalizes; see `norms.py`."""
    coupled.normalized.append(groups)
    if norms.subtracts_mean(layer):
        reason = f"'{call.path}' subtracts the mean of all channels, which depends on their number"
        coupled.centering.append((groups, reason))
