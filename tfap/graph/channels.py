"""Coupled channels: groups of channels that can only be removed together.

A channel keeps its group through activations, normalization, pooling, and similar layers. Add couples the
channels of its inputs. Flatten and Reshape spread a channel over several units. A split or slice takes some
channels of its input. A layer whose weights mix its input channels starts new groups. The values of weights
do not matter here.
"""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.graph import attention, composite, contractions, functions, layer_types, misread, norms, recurrent
from tfap.graph.activation import is_elementwise
from tfap.graph.calls import channel_axis, unwrap
from tfap.graph.layer_types import ChannelRule, ConstantRule
from tfap.graph.units import InnerKernel


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one `Value`.

    Attributes:
        axis: Integer. The axis that indexes them, counted from the front.
        groups: Integer array, shape `(channels,)`. The group of each channel.
    """

    axis: int
    groups: np.ndarray


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
        self._couplings = []  # pairs of arrays of groups: entry i of one is coupled with entry i of the other
        self._pins = []  # (groups, reason)
        self._centering, self._normalized = [], []  # the same, and groups
        self._of = {}
        self._heads = {}
        self.size = 0
        self._units = {}  # path -> config entry -> groups
        for value in graph.inputs:
            self._of[value] = None
        for call in graph.calls:
            self._trace(call)
        for path, calls in graph.calls_of.items():
            self._couple_calls(calls)
            inside = composite.counts(unwrap(calls[0].layer))
            self._units[path] = {entry: self._new(count) for entry, count in inside.items()}
        self._couple_nested_calls(graph.entries)
        for value in graph.outputs:
            self._pin(value, "it is an output of the model")
        self._number_groups()

    def of(self, value):
        """Returns the `Channels` of a value. None if they are unknown."""
        return self._of[value]

    def heads(self, path):
        """Returns the groups of the heads of an attention layer. None for other layers."""
        return self._heads.get(path)

    def units_of(self, path):
        """Returns the groups of the units inside a layer: dict of config entry to integer array."""
        return self._units[path]

    # -- one method per rule: the `Channels` of a call's output, None, or the reason to pin its inputs -------

    def _trace(self, call):
        layer = unwrap(call.layer)
        channels = self._rule(layer, call)(layer, call)
        if isinstance(channels, str):
            for value in call.inputs:
                self._pin(value, channels)
            channels = None
        each = channels if isinstance(channels, list) else [channels] * len(call.outputs)
        for value, its in zip(call.outputs, each):
            self._of[value] = its

    def _rule(self, layer, call):
        row = layer_types.of(layer)
        if call.training and row.random_in_training:
            return self._always_training
        if misread.is_misread(call):
            return self._misread
        if row.recurrent:
            return self._recurrent
        if row.attention:
            return self._attention
        if row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE) and not _follows_its_row(layer):
            return self._with_extra_weights if _has_extra_weights(layer) else self._unknown
        is_function = functions.name_of(call) is not None
        if is_function and row.channels in (ChannelRule.SAME, ChannelRule.MERGED):
            return self._elementwise
        if row.channels is ChannelRule.MERGED and len(call.inputs) == 1:
            return self._unknown
        return {
            ChannelRule.LINEAR: self._linear,
            ChannelRule.DEPTHWISE: self._depthwise,
            ChannelRule.SAME: self._same,
            ChannelRule.ALONG_AXIS: self._along_axis,
            ChannelRule.MERGED: self._merge,
            ChannelRule.CONCATENATED: self._concatenate,
            ChannelRule.RESHAPED: self._reshape,
            ChannelRule.PERMUTED: self._permute,
            ChannelRule.STACKED: self._stack,
            ChannelRule.SELECTED: self._select,
            ChannelRule.CONTRACTED: self._contract,
            ChannelRule.SHAPE: self._shape,
            None: self._unknown,
        }[row.channels]

    def _always_training(self, layer, call):
        return f"it is consumed by '{call.path}', which is always called with training=True"

    def _misread(self, layer, call):
        return f"it is consumed by '{call.path}', in which Keras 3 on TensorFlow adds to another axis"

    def _with_extra_weights(self, layer, call):
        return (
            f"it is consumed by '{call.path}' ({type(layer).__name__}), which has more weights than a kernel "
            "and a bias"
        )

    def _unknown(self, layer, call):
        if functions.name_of(call) is not None:
            consumer = f"the function '{call.path}'"
        elif layer_types.inner(layer) is not layer:
            kind = type(layer_types.inner(layer)).__name__
            consumer = f"the {type(layer).__name__} '{call.path}' around the {kind}"
        elif keras_compat.kind_of(layer) is None:
            consumer = f"the custom layer '{call.path}' ({type(layer).__name__})"
        else:
            consumer = f"the {type(layer).__name__} '{call.path}'"
        return f"it is consumed by {consumer}, which tfap does not analyze"

    def _linear(self, layer, call):
        if not consumes_channels(layer) and self._of[call.inputs[0]] is not None:
            return f"'{call.path}' consumes it as indices"
        shape = call.outputs[0].shape
        axis = _channel_axis(layer, len(shape))
        if consumes_channels(layer):
            self._groups_along(call.inputs[0], axis, f"'{call.path}' consumes it along another axis")
        return Channels(axis, self._produced(layer, call, shape[axis]))

    def _recurrent(self, layer, call):
        which = recurrent.why_not_analyzed(layer, call)
        if which is not None:
            kind = type(layer).__name__
            return (
                f"it is consumed by the {kind} '{call.path}', and tfap does not analyze {kind} layers {which}"
            )
        self._groups_along(call.inputs[0], -1, f"'{call.path}' consumes it along another axis")
        produced = self._new(call.outputs[0].shape[-1])
        if recurrent.is_concatenated(layer):  # both directions keep as many units
            self._couple(*np.split(produced, 2))
        parts = recurrent.by_output(layer, produced, len(call.outputs))
        return [Channels(len(value.shape) - 1, part) for value, part in zip(call.outputs, parts)]

    def _attention(self, layer, call):
        which, kind = attention.why_not_analyzed(layer, call), type(layer).__name__
        if which is not None:
            return (
                f"it is consumed by the {kind} '{call.path}', and tfap does not analyze {kind} layers {which}"
            )
        values = attention.consumed(call)
        for value in call.inputs:
            if value not in values:
                self._pin(value, f"'{call.path}' consumes it as a mask")
        reason = f"'{call.path}' consumes it together with channels that are not removable"
        if any(_last_channels(self, value) is None for value in values):
            for value in values:
                self._pin(value, reason)
        produced = self._new(call.outputs[0].shape[-1])
        if attention.has_width_of_query(layer):
            self._couple(produced, self._groups_along(values[0], -1, reason))
        if call.path not in self._heads:
            self._heads[call.path] = self._new(attention.head_count(layer))
        if len(call.outputs) > 1:
            self._pins.append((self._heads[call.path], f"'{call.path}' returns the scores of all its heads"))
        scores = [None] * (len(call.outputs) - 1)
        return [Channels(len(call.outputs[0].shape) - 1, produced), *scores]

    def _depthwise(self, layer, call):
        axis = _channel_axis(layer, len(call.outputs[0].shape))
        along = "along another axis" if self._of[call.inputs[0]] else "as a channel that is not removable"
        consumed = self._groups_along(call.inputs[0], axis, f"'{call.path}' consumes it {along}")
        produced = self._produced(layer, call, call.outputs[0].shape[axis])
        self._couple(produced, np.repeat(consumed, layer_types.inner(layer).depth_multiplier))
        return Channels(axis, produced)

    def _produced(self, layer, call, count):
        """Starts the groups of a layer's output channels."""
        produced = self._new(count)
        if not is_elementwise(layer):
            self._pins.append((produced, f"the activation of '{call.path}' may combine channels"))
        return produced

    def _same(self, layer, call):
        (value,), result = call.inputs[:1], call.outputs[0]
        channels = self._of[value]
        if not is_elementwise(layer):
            return f"the activation '{call.path}' may combine channels"
        if channels is None:
            return None
        axis = self._axis_of_layer(layer, value)
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
        last = channels.axis == len(value.shape) - 1
        new_axis = len(result.shape) - 1 if last else channels.axis
        if new_axis >= len(result.shape) or result.shape[new_axis] != len(channels.groups):
            return f"'{call.path}' changes the number of channels"
        if layer_types.of(layer).constants is ConstantRule.GROUP_NORMALIZED:
            self._couple_normalized(layer, channels.groups, call)
        if norms.is_over_channels(layer):
            if norms.why_not_analyzed(layer) is not None:
                return f"tfap does not analyze the layer '{call.path}' {norms.why_not_analyzed(layer)}"
            self._normalized.append(channels.groups)
            if norms.subtracts_mean(layer):
                reason = f"'{call.path}' subtracts the mean of all channels, which depends on their number"
                self._centering.append((channels.groups, reason))
        return Channels(new_axis, channels.groups)

    def _along_axis(self, layer, call):
        channels = self._of[call.inputs[0]]
        if channels is None:
            return None
        if len(call.inputs) > 1:
            return self._unknown(layer, call)
        if channels.axis in functions.axes_of(call):
            return f"the activation '{call.path}' may combine channels"
        return channels

    def _axis_of_layer(self, layer, value):
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
        return _channel_axis(layer, ndim) if spatial else 0

    def _couple_normalized(self, layer, groups, call):
        """Couples the channels that a GroupNormalization normalizes together: all of them go or none."""
        if layer.groups == 1:
            self._pins.append((groups, f"'{call.path}' normalizes all channels together"))
        members = groups.reshape(layer.groups, -1)
        for member in members.T[1:]:
            self._couple(members.T[0], member)

    def _merge(self, layer, call):
        shape = call.outputs[0].shape
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        same_rank = all(len(value.shape) == len(shape) for value in call.inputs)
        if not known or not same_rank or any(channels.axis != known[0].axis for channels in known):
            return f"'{call.path}' merges it with channels on another axis"
        axis = known[0].axis
        reason = f"'{call.path}' merges it with channels that are not removable"
        produced = self._new(shape[axis])
        for value in call.inputs:
            if value.shape[axis] == shape[axis]:
                self._couple(produced, self._groups_along(value, axis, reason))
            else:
                self._pin(value, f"'{call.path}' broadcasts it to all channels")
        return Channels(axis, produced)

    def _elementwise(self, layer, call):
        """Follows channels through a function of one tensor or several, and constants such as in `x + 1`."""
        shapes, ndim = functions.operand_shapes(call), len(call.outputs[0].shape)
        if shapes is None or not call.inputs:
            return f"'{call.path}' has arguments that tfap does not analyze"
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        for channels in known:
            from_end = ndim - channels.axis
            if any(len(shape) >= from_end and shape[-from_end] != 1 for shape in shapes):
                return f"'{call.path}' has a constant for each of its channels"
        return self._same(layer, call) if len(call.inputs) == 1 else self._merge(layer, call)

    def _concatenate(self, layer, call):
        along = functions.concatenation_axis(call)
        if along is None:
            return f"'{call.path}' concatenates it with constants"
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        if not known or any(channels.axis != known[0].axis for channels in known):
            return f"'{call.path}' concatenates it with channels on another axis"
        axis = known[0].axis
        reason = f"'{call.path}' concatenates it with channels that are not removable"
        parts = [self._groups_along(value, axis, reason) for value in call.inputs]
        if along == axis:
            return Channels(axis, np.concatenate(parts))
        for part in parts[1:]:
            self._couple(parts[0], part)
        return Channels(axis, parts[0])

    def _reshape(self, layer, call):
        value, shape = call.inputs[0], call.outputs[0].shape
        channels = self._of[value]
        if channels is None:
            return None
        if not functions.has_fixed_shape(call):
            return f"'{call.path}' reshapes it to a shape that is computed"
        if layer_types.inner(layer) is not layer and channels_first_flatten(layer_types.inner(layer)):
            return f"'{call.path}' moves the channels of each time step"
        if keeps_last_axis(layer, channels.axis, value.shape, shape):
            return Channels(len(shape) - 1, channels.groups)
        if None in value.shape[1:] or None in shape[1:]:
            return f"'{call.path}' reshapes it, and its shape has undefined dimensions"
        if math.prod(value.shape[1:]) != math.prod(shape[1:]):
            return f"'{call.path}' reshapes it together with the batch"
        elements = spread(channels.groups, channels.axis, value.shape, channels_first_flatten(layer))
        axis = _unit_axis(elements.reshape(shape[1:]))
        units = by_unit(elements.reshape(shape[1:]), axis)
        for row in units[1:]:
            self._couple(units[0], row)
        return Channels(axis + 1, units[0])

    def _permute(self, layer, call):
        channels = self._of[call.inputs[0]]
        if channels is None:
            return None
        if len(call.inputs) > 1:
            return self._unknown(layer, call)
        axes = functions.moved_axes(call)
        if axes[:1] != [0]:
            return f"'{call.path}' moves the batch axis or combines samples"
        if channels.axis not in axes:
            return f"'{call.path}' combines its channels"
        return Channels(axes.index(channels.axis), channels.groups)

    def _stack(self, layer, call):
        new_axis = functions.stacking_axis(call)
        known = [self._of[value] for value in call.inputs if self._of[value] is not None]
        if new_axis is None or not known or any(channels.axis != known[0].axis for channels in known):
            return f"'{call.path}' stacks it with other values than channels on the same axis"
        if new_axis == 0:
            return f"'{call.path}' moves the batch axis"
        axis = known[0].axis
        reason = f"'{call.path}' stacks it with channels that are not removable"
        parts = [self._groups_along(value, axis, reason) for value in call.inputs]
        for part in parts[1:]:
            self._couple(parts[0], part)
        return Channels(axis + (new_axis <= axis), parts[0])

    def _select(self, layer, call):
        channels = self._of[call.inputs[0]]
        if channels is None:
            return None
        if len(call.inputs) > 1:
            return self._unknown(layer, call)
        found = functions.selected(call, channels.axis)
        if isinstance(found, str):
            return found
        axis, selections = found
        return [Channels(axis, channels.groups[selection]) for selection in selections]

    def _contract(self, layer, call):
        found = contractions.operands(call)
        if isinstance(found, str):
            return found
        values, result = found
        passed = {}  # axis of the result -> groups
        for value, labels in values:
            channels = self._of[value]
            if channels is None:
                continue
            label = labels[channels.axis]
            self._couple_operands(call, values, label, channels.groups)
            if label in result:
                passed.setdefault(result.index(label), channels.groups)
            else:
                self._normalized.append(channels.groups)
        for groups in list(passed.values())[1:]:
            self._pins.append((groups, f"'{call.path}' moves it to another axis than that of other channels"))
        return next((Channels(axis, groups) for axis, groups in passed.items()), None)

    def _couple_operands(self, call, values, label, groups):
        """Couples the channels of all tensors that have them on the same label."""
        reason = f"'{call.path}' multiplies it with values that are not removable"
        for value, labels in values:
            if labels.count(label) > 1 or (
                label in labels and value.shape[labels.index(label)] != len(groups)
            ):
                self._pins.append((groups, reason))
            elif label in labels:
                self._couple(groups, self._groups_along(value, labels.index(label), reason))

    def _shape(self, layer, call):
        channels = self._of[call.inputs[0]]
        if channels is not None and not functions.is_size_of_other_axes(call, channels.axis):
            return f"'{call.path}' reads its shape"
        return None

    # -- groups ------------------------------------------------------------------------------------

    def _new(self, count):
        groups = np.arange(self.size, self.size + count)
        self.size += count
        return groups

    def _couple(self, some, others):
        self._couplings.append((np.asarray(some), np.asarray(others)))

    def _pin(self, value, reason):
        """Marks the channels of a value as not removable."""
        if self._of[value] is not None:
            self._pins.append((self._of[value].groups, reason))

    def _groups_along(self, value, axis, reason):
        """Returns the groups of a value's channels on an axis. Unknown channels get new groups, pinned."""
        channels = self._of[value]
        if channels is not None and channels.axis == axis % len(value.shape):
            return channels.groups
        self._pin(value, reason)
        groups = self._new(value.shape[axis] or 0)
        self._pins.append((groups, reason))
        return groups

    def _couple_calls(self, calls):
        """Couples the channels of all calls of a layer that has weights or a fixed output shape."""
        layer = calls[0].layer
        has_sizes = (
            getattr(layer, "weights", None) or hasattr(layer, "target_shape") or functions.has_sizes(calls[0])
        )
        if len(calls) == 1 or not has_sizes:
            return
        for call in calls[1:]:
            for value, first in zip(call.inputs + call.outputs, calls[0].inputs + calls[0].outputs):
                self._couple_values(value, first)

    def _couple_nested_calls(self, entries):
        """Couples the inputs of all calls of a nested model."""
        first_inputs = {}
        for model, inputs in entries:
            for value, first in zip(inputs, first_inputs.setdefault(id(model), inputs)):
                self._couple_values(value, first)

    def _couple_values(self, value, other):
        a, b = self._of[value], self._of[other]
        if a is None or b is None or a.axis != b.axis or len(a.groups) != len(b.groups):
            for each in (value, other):
                self._pin(each, "the calls of a shared layer or model have different channels")
        elif value is not other:
            self._couple(a.groups, b.groups)

    def _number_groups(self):
        labels = np.arange(self.size)
        if self._couplings:
            some, others = (np.concatenate(side) for side in zip(*self._couplings))
            labels = _connected(labels, some, others)
        _, labels = np.unique(labels, return_inverse=True)
        self.size = int(labels.max(initial=-1)) + 1
        self.pinned = _reasons(labels, self._pins)
        centering = _reasons(labels, self._centering)
        self.centering = centering.keys() - self.pinned.keys()
        self.pinned = {**centering, **self.pinned}
        self.normalized = {int(group) for groups in self._normalized for group in labels[groups]}
        for value, channels in self._of.items():
            if channels is not None:
                self._of[value] = Channels(channels.axis, labels[channels.groups])
        self._heads = {path: labels[groups] for path, groups in self._heads.items()}
        for path, inside in self._units.items():
            self._units[path] = {entry: labels[groups] for entry, groups in inside.items()}


_NORMALIZING = (ConstantRule.NORMALIZED, ConstantRule.GROUP_NORMALIZED, *layer_types.OVER_CHANNELS)


def _reasons(labels, pins):
    """Returns the first reason of each group."""
    found = {}
    for groups, reason in pins:
        for group in np.unique(labels[groups]):
            found.setdefault(int(group), reason)
    return found


def _connected(labels, some, others):
    """Returns labels where connected entries share the lowest label among them."""
    while True:
        before = labels
        lower = np.minimum(labels[some], labels[others])
        labels = labels.copy()
        np.minimum.at(labels, before[some], lower)
        np.minimum.at(labels, before[others], lower)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def keeps_last_axis(layer, axis, shape, new_shape):
    """Returns whether a reshape keeps the channels on the last axis. Other dimensions may be undefined."""
    is_last = axis == len(shape) - 1 and not channels_first_flatten(layer)
    return is_last and shape[-1] is not None and shape[-1] == new_shape[-1]


def _unit_axis(elements):
    """Returns the axis on which reshaped channels can be removed.

    It is the last one on which alone the group depends. If there is none, as in a channel shuffle, channels
    are coupled, and the longest of the axes on which the group depends couples the fewest.
    """
    axes = range(elements.ndim)[::-1]
    for axis in axes:
        units = by_unit(elements, axis)
        if (units == units[:1]).all():
            return axis
    return max((axis for axis in axes if _depends_on(elements, axis)), key=lambda axis: elements.shape[axis])


def _depends_on(elements, axis):
    return bool((elements != elements.take([0], axis)).any())


def by_unit(elements, axis):
    """Returns the elements as rows with one entry per index on an axis."""
    return np.moveaxis(elements, axis, -1).reshape(-1, elements.shape[axis])


def spread(values, axis, shape, channels_first):
    """Repeats one value per channel for every element of a sample, in the order in which it is flattened."""
    along = [1] * (len(shape) - 1)
    along[axis - 1] = len(values)
    elements = np.broadcast_to(np.reshape(values, along), shape[1:])
    return np.moveaxis(elements, 0, -1).ravel() if channels_first else elements.ravel()


def channels_first_flatten(layer):
    """Returns whether a layer is a Flatten with channels_first, which moves the channels last first."""
    is_flatten = not hasattr(layer, "target_shape")
    return is_flatten and getattr(layer, "data_format", None) == "channels_first"


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
    parts = [_last_channels(channel_map, value) for value in attention.consumed(call)]
    if channel_map.of(call.outputs[0]) is None or any(part is None for part in parts):
        return None
    return Channels(parts[0].axis, np.concatenate([part.groups for part in parts]))


def _last_channels(channel_map, value):
    """Returns the `Channels` of a value. None if they are not on its last axis."""
    channels = channel_map.of(value)
    return channels if channels is not None and channels.axis == len(value.shape) - 1 else None


def consumes_channels(layer):
    """Returns whether a layer consumes channels. False for an Embedding, which consumes indices."""
    return all(spec.reads_input for spec in layer_types.kernel_specs(layer)[:1])


def _follows_its_row(layer):
    """Returns whether a layer with kernels computes what the table of layer types says.

    Its kernels must be variables, its only other weight may be a bias, and an EinsumDense must act on the
    last axis.
    """
    layer = layer_types.inner(layer)
    if layer_types.why_not_prunable(layer) is not None or _has_extra_weights(layer):
        return False
    return not hasattr(layer, "equation") or _is_dense_einsum(layer)


def _has_extra_weights(layer):
    """Returns whether a layer has, or may get, other weights than its kernels and a bias."""
    layer = layer_types.inner(layer)
    activation = getattr(layer, "activation", None)
    if keras_compat.is_layer(activation):  # its weights may be created only in its first call
        return layer_types.of(activation).constants is not ConstantRule.APPLIED
    has_bias = getattr(layer, "bias", None) is not None
    return len(layer.weights) > len(layer_types.kernel_specs(layer)) + has_bias


def _is_dense_einsum(layer):
    """Returns whether an EinsumDense is a Dense on the last axis, such as `abc,cd->abd`."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    bias_axes = layer.bias_axes or outputs[-1]
    return (
        len(kernel) == 2
        and kernel == inputs[-1] + outputs[-1]
        and inputs[:-1] == outputs[:-1]
        and bias_axes == outputs[-1]
    )


def _channel_axis(layer, ndim):
    return channel_axis(layer) % ndim
