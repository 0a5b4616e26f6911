"""Sizes with which Keras adds something to another axis, so that a layer keeps one channel more.

`ops.add` of Keras 3 on TensorFlow takes a second tensor with one axis longer than 1 for a bias, and tries the
last axis of the first tensor and then axis 1: see `keras_compat.misreads_sums`. So it adds

- a bias of shape (4, 1), for 4 heads of size 1, to 4 time steps; see `attention_map.py`,
- the bias of 4 channels on axis 1 to a last axis of size 4, in a convolution that is channels_first,
- a constant or another tensor of shape (4, 1), one value for each of 4 time steps, to 4 channels.

The outputs of a model are right as long as such sizes differ, and compaction must not make them equal. If
they are equal in the given model, tfap does not analyze the layer: it computes something else.

Sizes that the model leaves undefined, such as the number of time steps, can become equal to any number of
channels in a batch of 1. Only heads are kept apart from those.
"""

import collections

import numpy as np

from tfap import keras_compat
from tfap.graph import functions, layer_types
from tfap.graph.calls import unwrap

REASON = "with fewer, Keras 3 on TensorFlow would add a bias or constant to another axis"


def is_misread(call):
    """Returns whether Keras misreads a sum in a call of a layer or function, whatever the size of the batch.

    See `attention.py` and `attention_map.py` for the heads of attention layers.
    """
    layer = unwrap(call.layer)
    if not keras_compat.misreads_sums(layer):
        return False
    if getattr(layer_types.inner(layer), "bias", None) is not None:
        return _misreads_bias(layer, call.outputs[0].shape)
    shapes = [value.shape for value in (*call.inputs, *call.outputs)]
    return _is_sum(call, layer) and _misreads_any(shapes, _constants(call))


def single_dimensions(heads, steps):
    """Returns of which dimensions of heads one alone is misread: 0 for those of keys, 1 for those of values.

    Args:
        heads: List of integers, how many heads the query, key, and value have.
        steps: List of sets with their numbers of steps. None is any number.
    """
    found = [count > 1 and (count in sizes or None in sizes) for count, sizes in zip(heads, steps)]
    return {dimensions for dimensions, is_found in zip((0, 0, 1), found) if is_found}


class Sums:
    """The sums of a model that Keras may misread, where heads or channels can be removed.

    Args:
        liveness: The `Liveness` of the model.
    """

    def __init__(self, liveness):
        self._liveness = liveness
        calls = [call for call in liveness.graph.calls if keras_compat.misreads_sums(unwrap(call.layer))]
        found = [(call, _groups(liveness, call)) for call in calls]
        self._calls = [(call, groups) for call, groups in found if groups is not None]
        self._calls_of = collections.defaultdict(list)
        for call, groups in self._calls:
            for group in np.unique(groups).tolist():
                self._calls_of[group].append((call, groups))

    def keep_more(self, kept):
        """Marks a channel or head more as kept where Keras misreads the number of them. Changes `kept`.

        Call this until nothing changes.

        Args:
            kept: Boolean array, shape `(channel groups,)`. The groups to keep.
        """
        for call, groups in self._calls:
            if not kept[groups].all() and _is_misread(self._liveness, call, groups, kept):
                kept[groups[~kept[groups]][0]] = True

    def is_needed(self, kept, group):
        """Returns whether Keras would misread a sum without this one of the kept channel groups."""
        fewer = kept.copy()
        fewer[group] = False
        return any(_is_misread(self._liveness, *call, fewer) for call in self._calls_of[group])


def _groups(liveness, call):
    """Returns the groups of the heads or channels of a call. None if they are unknown."""
    heads, channels = liveness.channels.heads(call.path), liveness.channels.of(call.outputs[0])
    return heads if heads is not None or channels is None else channels.groups


def _is_misread(liveness, call, groups, kept):
    layer = unwrap(call.layer)
    if liveness.channels.heads(call.path) is not None:
        return liveness.linear_maps[call.path].misreads_single_dimensions(int(kept[groups].sum()))
    if liveness.linear_map(call.path):
        return _misreads_bias(layer, _kept_shape(liveness, call.outputs[0], kept))
    if not _is_sum(call, layer):
        return False
    shapes = [_kept_shape(liveness, value, kept) for value in (*call.inputs, *call.outputs)]
    # In a batch of 1, the first axis of a tensor counts as little as if it was missing.
    added = [shape[1:] for shape in shapes[:-1]]
    return _misreads_any(shapes, [*_constants(call), *added]) or _is_left_with_batch(call, added)


def _is_sum(call, layer):
    return (functions.name_of(call) or keras_compat.kind_of(layer)) in ("Add", "Average")


def _constants(call):
    """Returns the shapes of the constants that a function adds."""
    return functions.operand_shapes(call) or [] if functions.name_of(call) else []


def _is_left_with_batch(call, added):
    """Returns whether the batch has become the longest axis of a tensor: as many steps take it for a bias."""
    one = [set(shape) == {1} and set(value.shape[1:]) != {1} for value, shape in zip(call.inputs, added)]
    return any(one) and any(set(shape) != {1} for shape in added)


def _misreads_any(shapes, added):
    return any(_takes_other_axis(first, second) for first in shapes for second in added)


def _misreads_bias(layer, shape):
    inner = layer_types.inner(layer)
    if getattr(inner, "data_format", None) != "channels_first" or layer_types.of(layer).recurrent:
        return False
    if inner is not layer:  # it sees one time step
        shape = (shape[0], *shape[2:])
    return _takes_other_axis(shape, (shape[1], *[1] * len(shape[2:])))


def _kept_shape(liveness, value, kept):
    channels = liveness.channels.of(value)
    shape = list(value.shape)
    if channels is not None:
        shape[channels.axis] = int(kept[channels.groups].sum())
    return tuple(shape)


def _takes_other_axis(first, second):
    """Returns whether Keras adds a tensor to another axis than broadcasting, by the shapes of both."""
    missing = len(first) - len(second)
    axes = [axis for axis, size in enumerate(second, missing) if size != 1]
    if missing < 0 or len(axes) != 1 or second[axes[0] - missing] is None:
        return False
    size, last = second[axes[0] - missing], len(first) - 1
    taken = last if first[last] == size else 1
    return first[taken] == size and taken != axes[0]
