"""From scores to masks of single weights: exactly the number asked for, and never a weight back.

Ties are broken by the smallest absolute weight, then by layer order, then by index.
"""

import dataclasses

import numpy as np

from tfap.kernels import Kernel


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
    if not _finite(kernel.weights):
        raise ValueError(f"The weights of '{kernel.path}' contain NaN or infinity: the masks stay.")
    scores = criterion.scores(kernel)
    if np.shape(scores) != kernel.weights.shape or not _finite(scores):
        raise ValueError(
            f"{type(criterion).__name__} gave scores for '{kernel.path}' that are not finite or not of "
            f"the kernel's shape {kernel.weights.shape}: the masks stay."
        )
    return Scored(kernel, scores)


def _finite(values):
    return np.isfinite(values.min()) and np.isfinite(values.max())


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
    total = sum(mask.size for mask in masks)
    ranks = [_ranks(item, min_weights_per_layer) for item in scored]
    kept = sum(np.count_nonzero(rank == np.inf) for rank in ranks) if min_weights_per_layer else 0
    count = min(round(float(sparsity) * total), total - kept)
    if count <= total - _alive(masks):
        return masks
    lowest_first = np.concatenate(ranks)
    lowest_first.partition(count - 1)  # in place: the copy was needed anyway
    cut = lowest_first[count - 1]
    if count == total or lowest_first[count:].min() > cut:
        keep = [rank > cut for rank in ranks]
    else:
        keep = _break_ties(scored, ranks, cut, count)
    return [kept.view(np.uint8).reshape(mask.shape) for kept, mask in zip(keep, masks)]


def _alive(masks):
    return sum(np.count_nonzero(mask.view(bool)) for mask in masks)


def _ranks(item, floor):
    """The scores as one row, in which the pruned weights come first and the `floor` best never."""
    scores, mask = item.scores.ravel(), item.kernel.mask.ravel().view(bool)
    if mask.all() and not floor:
        return scores
    scores = np.where(mask, scores, -np.inf)
    if floor:
        best = np.count_nonzero(mask) - floor
        alive = np.flatnonzero(mask)
        may_go = lowest(best, scores[alive], np.abs(item.kernel.weights.ravel()[alive]))
        scores[alive[~may_go]] = np.inf
    return scores


def _break_ties(scored, ranks, cut, count):
    """What stays if some of the weights that score exactly `cut` have to go: the larger ones."""
    keep = [rank >= cut for rank in ranks]
    tied = [np.flatnonzero(rank == cut) for rank in ranks]
    sizes = [np.abs(item.kernel.weights.ravel()[at]) for item, at in zip(scored, tied)]
    below = sum(rank.size - np.count_nonzero(stays) for rank, stays in zip(ranks, keep))
    goes = lowest(count - below, np.concatenate(sizes))
    ends = np.cumsum([len(at) for at in tied])[:-1]
    for stays, at, mine in zip(keep, tied, np.split(goes, ends)):
        stays[at[mine]] = False
    return keep
