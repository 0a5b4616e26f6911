"""Centered values: those whose channels have the sum zero at every position, for every input.

The kernel of a layer that makes such a value has the sum zero over its outputs, and so has its bias.
"""

import numpy as np

from tfap import keras_compat
from tfap.graph import functions, layer_types, norms
from tfap.graph.calls import unwrap
from tfap.graph.layer_types import ChannelRule

_ROUNDING = 1e-6  # of float32 sums, relative to the sum of absolute values
_LINEAR = {
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Identity"),
    *("ActivityRegularization", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *(f"{kind}{d}D" for kind in ("AveragePooling", "GlobalAveragePooling", "Cropping") for d in (1, 2, 3)),
    *(f"{kind}{d}D" for kind in ("UpSampling", "ZeroPadding") for d in (1, 2, 3)),
}
_SUMS = {"Add", "add", "add_n", "Subtract", "subtract"}


class CenteredValues:
    """Finds which values of a model are centered.

    Args:
        graph: A `calls.Graph`.
        channel_map: Its `channels.ChannelMap`.
        linear_maps: Dict of path to `linear.LinearMap`.
    """

    def __init__(self, graph, channel_map, linear_maps):
        self._channels, self._linear_maps = channel_map, linear_maps
        self._producers = {value: call for call in graph.calls for value in call.outputs}
        self._found = {}

    def __contains__(self, value):
        if value not in self._found:
            call = self._producers.get(value)
            known = call is not None and self._channels.of(value) is not None
            self._found[value] = known and self._is_centered(call)
        return self._found[value]

    def _is_centered(self, call):
        layer = unwrap(call.layer)
        if call.path in self._linear_maps:
            return _makes_centered(layer, self._linear_maps[call.path])
        kind = functions.name_of(call) or keras_compat.kind_of(layer)
        if kind in _SUMS:
            if functions.name_of(call) and functions.operand_shapes(call) != []:
                return False
            return all(
                value in self and value.shape[1:] == call.outputs[0].shape[1:] for value in call.inputs
            )
        if norms.is_over_channels(layer) and norms.subtracts_mean(layer):
            return _keeps_centered(layer)
        return kind in _LINEAR and call.inputs[0] in self


def _makes_centered(layer, linear_map):
    inner = layer_types.inner(layer)
    activation = getattr(getattr(inner, "activation", None), "__name__", "linear")
    row = layer_types.of(layer)
    if activation != "linear" or row.recurrent or row.channels is not ChannelRule.LINEAR:
        return False
    if len(linear_map.kernels) > 1 or linear_map.groups > 1:
        return False
    kernel = linear_map.kernels[0]
    axis = layer_types.kernel_specs(inner)[0].neuron_axes[0]
    return _sums_to_zero(kernel, axis) and (linear_map.bias is None or _sums_to_zero(linear_map.bias, -1))


def _sums_to_zero(array, axis):
    """Returns whether every row has the sum zero, for itself: an input may be zero but for one channel."""
    values = array.astype(np.float64)
    sums, sizes = values.sum(axis=axis), np.abs(values).sum(axis=axis)
    return bool((np.abs(sums) <= _ROUNDING * sizes).all())


def _keeps_centered(layer):
    """Returns whether a LayerNormalization has one scale for all channels, and shifts that sum to zero."""
    gamma, beta = getattr(layer, "gamma", None), getattr(layer, "beta", None)
    same = gamma is None or bool((np.array(gamma) == np.array(gamma)[:1]).all())
    return same and (beta is None or _sums_to_zero(np.array(beta), -1))
