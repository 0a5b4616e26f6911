"""Finds the consumers in a model."""

from collections.abc import Collection

import numpy as np

from tfap.compensation.attention import AttentionConsumer
from tfap.compensation.consumers import Consumer, kind_of
from tfap.graph import layer_types
from tfap.graph.calls import Graph
from tfap.graph.channels import ChannelMap, consumed_by
from tfap.graph.layer_types import ChannelRule


def consumers_of(
    graph: Graph, channel_map: ChannelMap, im2col: bool = True, fixed: Collection[int] = ()
) -> dict[str, Consumer]:
    """Finds the layers that consume known channels, or heads of their own, as weighted sums.

    Args:
        graph: The `Graph` of a model without wrappers.
        channel_map: Its `ChannelMap`.
        im2col: Boolean. Whether to fit convolutions by taps x channels if these are at most `MOST_UNITS`.
        fixed: The `id` of layers that must not change.

    Returns:
        Dict of path to `Consumer`, in graph order.
    """
    found: dict[str, Consumer] = {}
    for path, calls in graph.calls_of.items():
        layer = calls[0].layer
        if layer_types.of(layer).channels is not ChannelRule.LINEAR or not calls[0].inputs:
            continue
        consumed, heads = consumed_by(calls[0], channel_map), channel_map.heads(path)
        if heads is not None:
            groups = np.zeros(0, int) if consumed is None else consumed.groups
            if np.isin(groups, list(channel_map.pinned)).all():
                groups = groups[:0]
            found[path] = AttentionConsumer(path, calls, np.concatenate([groups, heads]), fixed)
        elif consumed is not None:
            found[path] = kind_of(layer, len(consumed.groups), im2col)(path, calls, consumed.groups, fixed)
    return found
