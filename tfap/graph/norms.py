"""Normalizations over all channels: when fewer channels have the same outputs.

With n channels, of which n' are kept, and constants c in the removed ones:

    RMSNormalization      x / sqrt(sum(x^2) / n + eps) * gamma
                        = x' / sqrt(sum(x'^2) / n' + eps') * gamma'
    with                  eps' = (n eps + sum(c^2)) / n',  gamma' = sqrt(n / n') gamma

so any constant channel that nothing reads afterwards can go. LayerNormalization subtracts the mean over n
channels, and one of fewer channels would subtract the mean over n'. They agree only if both are zero for
every input: the removed channels are zero, and the layers before it make channels whose sum is zero (see
`centered.py`). The rest is then as above, and a channel that is zero becomes beta. UnitNormalization divides
by the norm, which zeros do not change.
"""

import numpy as np

from tfap.graph import layer_types
from tfap.graph.layer_types import ConstantRule


def is_over_channels(layer):
    """Returns whether a layer normalizes over all channels."""
    return layer_types.of(layer).constants in layer_types.OVER_CHANNELS


def subtracts_mean(layer):
    """Returns whether a layer subtracts the mean of all channels."""
    return layer_types.of(layer).constants is ConstantRule.LAYER_NORMALIZED


def why_not_analyzed(layer):
    """Returns the reason why channels do not go through a layer, such as this one. None if they may."""
    if getattr(layer, "rms_scaling", False):
        return "with rms_scaling=True"
    return None


def without_effect(layer, known, zero):
    """Returns which of the constant channels before a layer do not change how it normalizes the others.

    Args:
        layer: A layer that normalizes over all channels, a LayerNormalization with centered inputs.
        known: Boolean array, shape `(channels,)`. Which are constant.
        zero: The same for those that are always zero.
    """
    return known if layer_types.of(layer).constants is ConstantRule.RMS_NORMALIZED else zero


def constants_after(layer, known, values, training, is_centered):
    """Finds the constant channels after a layer.

    Args:
        layer: A layer that normalizes over all channels.
        known: Boolean array, shape `(channels,)`. Which are constant before it.
        values: Float array. Their constants.
        training: Whether weights may change. A scale of zero then proves nothing.
        is_centered: Whether the sum of the channels is always zero.

    Returns:
        Tuple of the same two arrays.
    """
    gamma, beta = _gamma(layer, len(known)), _beta(layer, len(known))
    no_scale = np.zeros(len(known), bool) if training else gamma == 0
    if subtracts_mean(layer) and known.all():
        normalized = (values - values.mean()) / np.sqrt(values.var() + layer.epsilon)
        return known, normalized * gamma + beta
    zero = known & (values == 0)
    stays = zero if not subtracts_mean(layer) or is_centered else np.zeros(len(known), bool)
    return stays | no_scale, beta


def resized(layer, kept, constants):
    """Returns what changes in a layer with fewer channels.

    Args:
        layer: A layer that normalizes over all channels.
        kept: Boolean array, shape `(channels,)`.
        constants: Float array: the constants of the channels that are not kept.

    Returns:
        Tuple of a dict of config entries, and the factor of the first weight, gamma.
    """
    if kept.all() or layer_types.of(layer).constants is ConstantRule.UNIT_NORMALIZED:
        return {}, 1.0
    squares = float(np.sum(np.square(constants[~kept])))
    count = int(kept.sum())
    epsilon = (len(kept) * float(layer.epsilon) + squares) / count
    return {"epsilon": epsilon}, float(np.sqrt(len(kept) / count))


def _gamma(layer, channels):
    gamma = getattr(layer, "gamma", None)
    if gamma is None:  # RMSNormalization calls it scale, which is an option of LayerNormalization
        gamma = layer.weights[0] if not subtracts_mean(layer) and layer.weights else None
    return np.ones(channels) if gamma is None else np.array(gamma, np.float64)


def _beta(layer, channels):
    beta = getattr(layer, "beta", None)
    return np.zeros(channels) if beta is None else np.array(beta, np.float64)
