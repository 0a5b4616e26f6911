"""The structure around channels: which kinds of layers produce, normalize and consume them."""

import collections

import numpy as np

from tfap.graph import layer_types
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap, consumed_by
from tfap.graph.layer_types import ChannelRule, ConstantRule


class Structures:
    """Describes the layers around channels, so that equal structures can be ranked together.

    Two sets of coupled channels have the same structure if as many layers of the same classes, with kernels
    of the same window, produce, normalize and consume them. The number of channels does not matter. Heads
    have the same structure in attention layers of the same class whose heads have as many dimensions.

    Args:
        graph: The `Graph` of a model, wrapped or not.
        channel_map: Its `ChannelMap`.

    References:
        - Fang et al., *Isomorphic pruning for vision models*, ECCV 2024 (arXiv 2407.04616), section 3.2
    """

    def __init__(self, graph: Graph, channel_map: ChannelMap) -> None:
        self._around: list[tuple[tuple, np.ndarray]] = []
        for path, layer in graph.layers():
            call, layer = graph.calls_of[path][0], unwrap(layer)
            row = layer_types.of(layer)
            produced = channel_map.of(call.outputs[0])
            if row.constants is ConstantRule.NORMALIZED:
                self._add("normalize", layer, produced)
            elif row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE):
                self._add("produce", layer, produced)
                self._add("consume", layer, consumed_by(call, channel_map) if call.inputs else None)
            heads = channel_map.heads(path)
            if heads is not None:
                kernels = [kernel_structure(layer, spec) for spec in layer_types.head_specs(layer)]
                self._around.append((("attend", _class_name(layer), *kernels), heads))

    def _add(self, side, layer, channels):
        if channels is not None:
            kernels = [kernel_structure(layer, spec) for spec in layer_types.kernel_specs(layer)]
            self._around.append(((side, _class_name(layer), *kernels), channels.groups))

    def of(self, groups: np.ndarray) -> tuple:
        """Returns the structure around some channel groups, which is equal for equal structures."""
        labels = [label for label, its in self._around if np.isin(its, groups).any()]
        return tuple(sorted(collections.Counter(labels).items(), key=repr))


def kernel_structure(layer: object, spec: layer_types.KernelSpec) -> tuple:
    """Returns the class of a layer, and the name and window of one of its kernels."""
    shape = spec.find(layer).shape
    axes = {axis % len(shape) for axis in (*spec.neuron_axes, *spec.input_axes)}
    window = tuple(int(size) for axis, size in enumerate(shape) if axis not in axes)
    return _class_name(layer), spec.name, window


def _class_name(layer):
    return f"{type(layer).__module__}.{type(layer).__qualname__}"
