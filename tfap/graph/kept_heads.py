"""Kept heads of attention layers, and dimensions of heads, without effect on the outputs, and why."""

import numpy as np

from tfap.graph import misread

_CONSTANT = "its values are a nonzero constant, which masks and dropout may scale"
_DIMENSIONS = (
    "other heads of keys and values need as many query heads",
    "other heads need as many query and key dimensions",
    "other heads need as many value dimensions",
)
_EQUAL = "the layer needs as many query and key dimensions as value dimensions"


def kept_heads(liveness, kept_groups):
    """Lists `(path, number, reason)` of heads and dimensions that are constant or have no effect.

    Args:
        liveness: A `liveness.Liveness`.
        kept_groups: Boolean array, shape `(channel groups,)`. The groups to keep.
    """
    found = []
    for path, linear_map in liveness.linear_maps.items():
        heads = liveness.channels.heads(path)
        if heads is not None:
            found += _of_layer(liveness, path, linear_map, heads, kept_groups)
    return [(path, number, reason) for path, number, reason in found if number]


def _of_layer(liveness, path, linear_map, heads, kept_groups):
    consumed, produced = liveness.groups(path)
    outputs, kept = kept_groups[produced], kept_groups[heads]
    effective = linear_map.head_outputs[:, outputs].any(axis=1)
    pinned = np.array([liveness.channels.pinned.get(int(group), "") for group in heads])
    required = misread.REASON if kept.sum() > 1 else "a layer needs at least one head"
    for reason in dict.fromkeys(pinned[kept & ~effective].tolist()):
        number = int((kept & ~effective & (pinned == reason)).sum())
        yield path, number, reason or required
    yield path, int((kept & effective & linear_map.constant_heads).sum()), _CONSTANT
    inputs = np.ones(len(linear_map.nonzero), bool) if consumed is None else kept_groups[consumed]
    linear_map.kept_heads = kept
    reasons = _DIMENSIONS
    if linear_map.needs_equal_dimensions:
        reasons = (reasons[0], _EQUAL, _EQUAL)
    numbers = linear_map.uneven(inputs, outputs, effective)
    for number, reason, more in zip(numbers, reasons, linear_map.has_more_than_needed(inputs, outputs)):
        yield path, number, misread.REASON if more else reason
