"""Masks of single weights from scores: exactly the number asked for. Pruned weights stay pruned.

Equal scores are ranked by the absolute weight, then by layer order, then by index.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfap.graph.kernel import Kernel


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A kernel and its scores.

    Attributes:
        kernel: The `tfap.Kernel`.
        scores: Array of the shape of its weights. The lowest are pruned first; a weight that scores infinity
            is kept.
    """

    kernel: Kernel
    scores: np.ndarray


def score(criterion, kernel: Kernel) -> Scored:
    """Scores a kernel by a criterion.

    Args:
        criterion: A `tfap.Criterion`.
        kernel: A `tfap.Kernel`.

    Returns:
        The `Scored` kernel.

    Raises:
        ValueError: If the weights or the scores are not finite, or the scores have another shape.
    """
    if not _finite(kernel.weights):
        raise ValueError(f"The weights of '{kernel.path}' contain NaN or infinity: the masks stay.")
    scores = criterion.scores(kernel)
    if np.shape(scores) != kernel.weights.shape or not _are_numbers(scores) or not _finite(scores):
        raise ValueError(
            f"{type(criterion).__name__} gave scores for '{kernel.path}' that are not finite or not of "
            f"the kernel's shape {kernel.weights.shape}: the masks stay."
        )
    return Scored(kernel, scores)


def _are_numbers(scores):
    return np.asarray(scores).dtype.kind not in "cmMOSU"


def _finite(values):
    return np.isfinite(values.min()) and np.isfinite(values.max())


def lowest(count: int, *keys: np.ndarray) -> np.ndarray:
    """Marks the `count` lowest entries, ranked by the first key, equal ones by the next, then by index.

    It takes time linear in the number of entries: it partitions, never sorts.

    Example:

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


def count_to_prune(scored: Sequence[Scored], sparsity: float, min_weights_per_layer: int = 0) -> int:
    """Counts the weights that `prune_weights` prunes, if no score is infinite; arguments as there."""
    masks = [item.kernel.mask for item in scored]
    total, alive = sum(mask.size for mask in masks), _alive(masks)
    kept = sum(min(np.count_nonzero(mask), min_weights_per_layer) for mask in masks)
    return max(min(round(float(sparsity) * total) - (total - alive), alive - kept), 0)


def prune_weights(
    scored: Sequence[Scored], sparsity: float, min_weights_per_layer: int = 0, rounds_kept: bool = False
) -> list[np.ndarray]:
    """Makes masks in which round(sparsity x weights) single weights are pruned.

    Args:
        scored: `Scored` kernels that are ranked together, in layer order.
        sparsity: The fraction of all their weights that is pruned afterwards, those pruned before included.
        min_weights_per_layer: Weights that each kernel keeps whatever their scores.
        rounds_kept: Whether round((1 - sparsity) x weights), and at least one weight, are kept instead. That
            is how tfmot rounds. It differs by one weight if the product ends in .5.

    Returns:
        One uint8 mask per kernel. If the kernels are already sparser, their masks. If too few weights may
        be pruned, those that score infinity and those of the minimum are kept.
    """
    masks = [item.kernel.mask for item in scored]
    total = sum(mask.size for mask in masks)
    count = (
        _count_kept_rounded(sparsity, total) if rounds_kept else min(round(float(sparsity) * total), total)
    )
    if count <= total - _alive(masks):
        return masks
    ranks = [_ranks(item, min_weights_per_layer) for item in scored]
    lowest_first = np.concatenate(ranks)
    lowest_first.partition(count - 1)  # in place: the copy was needed anyway
    cut = lowest_first[count - 1]
    if cut == np.inf:
        keep = [rank == cut for rank in ranks]
    elif count == total or lowest_first[count:].min() > cut:
        keep = [rank > cut for rank in ranks]
    else:
        keep = _break_ties(scored, ranks, cut, count)
    return [kept.view(np.uint8).reshape(mask.shape) for kept, mask in zip(keep, masks)]


def _count_kept_rounded(sparsity, total):
    """The number of pruned weights in tfmot's own arithmetic, which is float32."""
    kept = np.round(np.float32(total) * (np.float32(1) - np.float32(sparsity)))
    return total - max(int(kept), 1)


def _alive(masks):
    return sum(np.count_nonzero(mask.view(bool)) for mask in masks)


def _ranks(item, floor):
    """Returns the scores as one row: -inf for pruned weights, inf for the `floor` best."""
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
    """Marks the weights to keep if some of those that score exactly `cut` are pruned: the larger ones."""
    keep = [rank >= cut for rank in ranks]
    tied = [np.flatnonzero(rank == cut) for rank in ranks]
    sizes = [np.abs(item.kernel.weights.ravel()[at]) for item, at in zip(scored, tied)]
    below = sum(rank.size - np.count_nonzero(stays) for rank, stays in zip(ranks, keep))
    goes = lowest(count - below, np.concatenate(sizes))
    ends = np.cumsum([len(at) for at in tied])[:-1]
    for stays, at, mine in zip(keep, tied, np.split(goes, ends)):
        stays[at[mine]] = False
    return keep
