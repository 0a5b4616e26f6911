"""Mask patterns: the shapes in which weights are pruned, single weights or whole neurons."""

from tfap.masks.neurons import prune_neurons
from tfap.masks.weights import prune_in_two_ways, prune_weights


def new_masks(settings, scored, sparsity):
    """Masks of `masks.weights.Scored` kernels that are ranked together, one each."""
    if settings.criterion.share:
        return prune_in_two_ways(scored, sparsity, settings.criterion.share, settings.min_weights_per_layer)
    prune = prune_neurons if settings.granularity == "neuron" else prune_weights
    return prune(scored, sparsity, settings.min_weights_per_layer)
