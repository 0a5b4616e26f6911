"""From scores to masks of single weights: exactly the number asked for, and never a weight back.

Ties are broken by the smallest absolute weight, then by layer order, then by index.
"""

import dataclasses
import math

import numpy as np

from tfap.graph.kernel import Kernel


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A kernel and its scores (same shape; the lowest go first).

    `second_scores` are those by which a criterion with a `share` chooses it: infinite where a weight stays.
    """

    kernel: Kernel
    scores: np.ndarray
    second_scores: np.ndarray | None = None


def score(criterion, kernel):
    """The `Scored` kernel by a criterion.

    Raises:
        ValueError: the weights or the scores are not finite, or the scores have another shape.
    """
    if not _finite(kernel.weights):
        raise ValueError(f"The weights of '{kernel.path}' contain NaN or infinity: the masks stay.")
    scores = criterion.scores(kernel)
    if np.shape(scores) != kernel.weights.shape or not _are_numbers(scores) or not _finite(scores):
        raise ValueError(
            f"{type(criterion).__name__} gave scores for '{kernel.path}' that are not finite or not of "
            f"the kernel's shape {kernel.weights.shape}: the masks stay."
        )
    return Scored(kernel, scores, criterion.second_scores(kernel) if criterion.share else None)


def _are_numbers(scores):
    return np.asarray(scores).dtype.kind not in "cmMOSU"


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


def prune_in_two_ways(scored, sparsity, share, min_weights_per_layer=0):
    """Masks in which floor(share x n) of the n weights that go are chosen by `Scored.second_scores`.

    First n - floor(share x n) go by the scores, then the others from what is left. Where fewer may go
    by the second scores, fewer go.

    Args:
        scored, sparsity, min_weights_per_layer: as in `prune_weights`.
        share: in [0, 1].

    Returns:
        One uint8 mask for each kernel.

    >>> kernel = Kernel("a", None, np.arange(8.0), np.ones(8, "uint8"))
    >>> second = Scored(kernel, kernel.weights, np.array([np.inf, 1, 1, 1, np.inf, np.inf, np.inf, 0]))
    >>> prune_in_two_ways([second], 0.5, share=0.5)  # 0 and 1 by the scores, 7 and 2 by the second ones
    [array([0, 0, 0, 1, 1, 1, 1, 0], dtype=uint8)]
    """
    masks = [item.kernel.mask for item in scored]
    total, alive = sum(mask.size for mask in masks), _alive(masks)
    kept = sum(min(np.count_nonzero(mask), min_weights_per_layer) for mask in masks)
    count = max(min(round(float(sparsity) * total) - (total - alive), alive - kept), 0)
    chosen = math.floor(share * count + 1e-9)  # 0.29 of 100 are 29, though 0.29 * 100 is less
    first = prune_weights(scored, (total - alive + count - chosen) / total, min_weights_per_layer)
    left = [
        Scored(dataclasses.replace(item.kernel, mask=mask), item.second_scores)
        for item, mask in zip(scored, first)
    ]
    may_go = [_lowest_of(item, min_weights_per_layer) for item in left]
    scores = np.concatenate([item.scores.ravel()[at] for item, at in zip(left, may_go)])
    sizes = np.concatenate([np.abs(item.kernel.weights.ravel()[at]) for item, at in zip(left, may_go)])
    goes = np.split(lowest(chosen, scores, sizes), np.cumsum([len(at) for at in may_go])[:-1])
    return [_without(mask, at[mine]) for mask, at, mine in zip(first, may_go, goes)]


def _lowest_of(item, floor):
    """Positions of the weights that may go: not infinite, and as many as the floor leaves."""
    scores, mask = item.scores.ravel(), item.kernel.mask.ravel()
    at = np.flatnonzero(mask.view(bool) & (scores < np.inf))
    spare = max(np.count_nonzero(mask) - floor, 0)
    return at[lowest(spare, scores[at], np.abs(item.kernel.weights.ravel()[at]))]


def _without(mask, positions):
    mask = mask.copy()
    mask.ravel()[positions] = 0
    return mask


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
