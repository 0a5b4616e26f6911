"""From scores to masks: exactly the number asked for, and never a weight back.

Ties are broken by the smallest absolute weight, then by layer order, then by index.
"""

import dataclasses

import numpy as np

from tfap.kernels import Kernel, neuron_count


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A kernel and its scores (same shape; the lowest go first)."""

    kernel: Kernel
    scores: np.ndarray


def score(criterion, kernel):
    """The `Scored` kernel by a criterion.

    Raises:
        ValueError: the weights or the scores are not finite, or the scores have another shape.
    """
    if not np.isfinite(kernel.weights).all():
        raise ValueError(f"The weights of '{kernel.path}' contain NaN or infinity: the masks stay.")
    scores = criterion.scores(kernel)
    if np.shape(scores) != kernel.weights.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"{type(criterion).__name__} gave scores for '{kernel.path}' that are not finite or not of "
            f"the kernel's shape {kernel.weights.shape}: the masks stay."
        )
    return Scored(kernel, scores)


def lowest(count, *keys):
    """Marks the `count` lowest entries, ranked by the first key, ties by the next, then by index.

    Linear in the number of entries: it partitions, never sorts.

    >>> lowest(2, np.array([3, 1, 2, 2]), np.array([0, 0, 5, 4]))
    array([False,  True, False,  True])
    """
    chosen = np.zeros(len(keys[0]), bool)
    if count >= len(chosen):
        return ~chosen
    if count <= 0:
        return chosen
    tied = None  # all of them, before the first key
    for key in keys:
        values = key if tied is None else key[tied]
        cut = np.partition(values, count - 1)[count - 1]
        below = values < cut
        if tied is None:
            chosen = below
            tied = np.flatnonzero(values == cut)
        else:
            chosen[tied[below]] = True
            tied = tied[values == cut]
        count -= np.count_nonzero(below)
        if count == len(tied):
            break
    chosen[tied[:count]] = True
    return chosen


def prune(scored, sparsity, granularity, min_weights_per_layer=0):
    """Masks by single weights or by whole neurons; see `prune_weights` and `prune_neurons`."""
    make = {"weight": prune_weights, "neuron": prune_neurons}[granularity]
    return make(scored, sparsity, min_weights_per_layer)


def prune_weights(scored, sparsity, min_weights_per_layer=0):
    """Masks in which round(sparsity x weights) single weights are pruned.

    Args:
        scored: `Scored` kernels that are ranked together, in layer order.
        sparsity: share of all their weights that is pruned afterwards, those pruned before included.
        min_weights_per_layer: alive weights that each kernel keeps whatever their scores.

    Returns:
        One uint8 mask for each kernel. If the kernels are already sparser, their masks.
    """
    masks = [item.kernel.mask for item in scored]
    candidates = [_candidates(item, min_weights_per_layer) for item in scored]
    count = min(_still_to_prune(masks, sparsity), sum(map(len, candidates)))
    if count <= 0:
        return masks
    scores = np.concatenate([item.scores.flat[at] for item, at in zip(scored, candidates)])
    sizes = np.concatenate([np.abs(item.kernel.weights.flat[at]) for item, at in zip(scored, candidates)])
    chosen = lowest(count, scores, sizes)
    ends = np.cumsum([len(at) for at in candidates])[:-1]
    return [_without(mask, at[mine]) for mask, at, mine in zip(masks, candidates, np.split(chosen, ends))]


def prune_neurons(scored, sparsity, min_weights_per_layer=0):
    """Masks in which whole neurons are pruned, lowest mean score of their alive weights first.

    The mean, not the sum: a sum would rank layers by their fan-in, and empty the narrowest first.

    As many neurons go, in that order, as do not exceed round(sparsity x weights) pruned weights.
    Arguments and result are those of `prune_weights`.
    """
    masks = [item.kernel.mask for item in scored]
    budget = _still_to_prune(masks, sparsity)
    order = _neurons_in_order(scored, min_weights_per_layer)
    affordable = np.cumsum(order["weights"]) <= budget
    return [
        _without_neurons(item.kernel, order["neuron"][affordable & (order["layer"] == layer)])
        for layer, item in enumerate(scored)
    ]


def _still_to_prune(masks, sparsity):
    alive = sum(np.count_nonzero(mask) for mask in masks)
    total = sum(mask.size for mask in masks)
    return round(float(sparsity) * total) - (total - alive)


def _candidates(item, floor):
    """Flat indices of the alive weights that may go: all but the `floor` best."""
    alive = np.flatnonzero(item.kernel.mask)
    if not floor:
        return alive
    scores, sizes = item.scores.flat[alive], np.abs(item.kernel.weights.flat[alive])
    return alive[lowest(len(alive) - floor, scores, sizes)]


def _neurons_in_order(scored, floor):
    """The neurons that may go, lowest first: arrays of layer, neuron and its alive weights."""
    columns = {"score": [], "size": [], "layer": [], "neuron": [], "weights": []}
    for layer, item in enumerate(scored):
        kernel = item.kernel
        weights = kernel.neuron_sums(kernel.mask.astype(np.int64))
        alive = np.flatnonzero(weights)
        scores, sizes = (
            kernel.neuron_sums(np.multiply(values, kernel.mask, dtype=np.float64)) / np.maximum(weights, 1)
            for values in (item.scores, np.abs(kernel.weights))
        )
        alive = alive[np.lexsort((alive, sizes[alive], scores[alive]))]
        alive = alive[np.cumsum(weights[alive]) <= weights.sum() - floor]
        columns["score"].append(scores[alive])
        columns["size"].append(sizes[alive])
        columns["layer"].append(np.full(len(alive), layer))
        columns["neuron"].append(alive)
        columns["weights"].append(weights[alive])
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((table["neuron"], table["layer"], table["size"], table["score"]))
    return {name: values[order] for name, values in table.items()}


def _without(mask, flat_indices):
    if not len(flat_indices):
        return mask
    mask = mask.copy()
    mask.flat[flat_indices] = 0
    return mask


def _without_neurons(kernel, neurons):
    keep = np.ones(neuron_count(kernel.spec, kernel.weights.shape), np.uint8)
    keep[neurons] = 0
    return kernel.mask * kernel.per_neuron(keep)
