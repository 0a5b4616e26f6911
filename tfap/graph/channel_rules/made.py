"""Layers whose weights make new channels: linear maps, depthwise, recurrent, and attention layers."""

import numpy as np

from tfap.graph import attention, layer_types, recurrent
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import channel_axis
from tfap.graph.coupled_channels import Channels, is_on_last_axis


def linear(layer, call, coupled):
    consumes_channels = _consumes_channels(layer)
    if not consumes_channels and coupled.of(call.inputs[0]) is not None:
        return f"'{call.path}' consumes it as indices"
    shape = call.outputs[0].shape
    axis = channel_axis(layer) % len(shape)
    if consumes_channels:
        coupled.along(call.inputs[0], axis, f"'{call.path}' consumes it along another axis")
    return Channels(axis, _made(layer, call, shape[axis], coupled))


def depthwise(layer, call, coupled):
    shape = call.outputs[0].shape
    axis = channel_axis(layer) % len(shape)
    along = "along another axis" if coupled.of(call.inputs[0]) else "as a channel that is not removable"
    consumed = coupled.along(call.inputs[0], axis, f"'{call.path}' consumes it {along}")
    made = _made(layer, call, shape[axis], coupled)
    coupled.couple(made, np.repeat(consumed, layer_types.inner(layer).depth_multiplier))
    return Channels(axis, made)


def recurrent_units(layer, call, coupled):
    which = recurrent.why_not_analyzed(layer, call)
    if which is not None:
        return _not_analyzed(layer, call, which)
    coupled.along(call.inputs[0], -1, f"'{call.path}' consumes it along another axis")
    made = coupled.new(call.outputs[0].shape[-1])
    if recurrent.is_concatenated(layer):  # both directions keep as many units
        coupled.couple(*np.split(made, 2))
    parts = recurrent.by_output(layer, made, len(call.outputs))
    return [Channels(len(value.shape) - 1, part) for value, part in zip(call.outputs, parts)]


def attended(layer, call, coupled):
    which = attention.why_not_analyzed(layer, call)
    if which is not None:
        return _not_analyzed(layer, call, which)
    values = attention.consumed(call)
    for value in call.inputs:
        if value not in values:
            coupled.pin_value(value, f"'{call.path}' consumes it as a mask")
    reason = f"'{call.path}' consumes it together with channels that are not removable"
    if not all(is_on_last_axis(coupled.of(value), value) for value in values):
        for value in values:
            coupled.pin_value(value, reason)
    made = coupled.new(call.outputs[0].shape[-1])
    if attention.has_width_of_query(layer):
        coupled.couple(made, coupled.along(values[0], -1, reason))
    if call.path not in coupled.heads:
        coupled.heads[call.path] = coupled.new(attention.head_count(layer))
    if len(call.outputs) > 1:
        coupled.pin(coupled.heads[call.path], f"'{call.path}' returns the scores of all its heads")
    scores = [None] * (len(call.outputs) - 1)
    return [Channels(len(call.outputs[0].shape) - 1, made), *scores]


def _consumes_channels(layer):
    """Returns whether a layer consumes channels. False for an Embedding, which consumes indices."""
    return all(spec.reads_input for spec in layer_types.kernel_specs(layer)[:1])


def _made(layer, call, count, coupled):
    """Starts the groups of a layer's output channels."""
    made = coupled.new(count)
    if not is_elementwise(layer):
        coupled.pin(made, f"the activation of '{call.path}' may combine channels")
    return made


def _not_analyzed(layer, call, which):
    kind = type(layer).__name__
    return f"it is consumed by the {kind} '{call.path}', and tfap does not analyze {kind} layers {which}"
