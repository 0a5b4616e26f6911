"""Which channels to keep, so that the loss of all sets together is small within a limit on the cost.

Every set of coupled channels has a curve: the loss by the number of its channels that are removed. Starting
from the whole model, the step with the smallest loss per cost that it saves is taken, again and again. Steps
go from corner to corner of the lower convex hull of a curve. Within a limit, steps that went too far are
taken back, one channel at a time.
"""

import heapq
import math
from collections.abc import Sequence

import numpy as np

from tfap.budgets.costs import ROUNDING, Cost
from tfap.budgets.rounding import Rounding
from tfap.compensation.allocation import Allocation

_LEVELS = 64  # of a curve, at most
_HALVINGS = 40


class AllocatedProposals:
    """Kept channels by the largest cost that they may have, as `proposals.Proposals`, by loss curves.

    Args:
        cost: A `Cost` of the model.
        allocation: The `Allocation` of the same model.
        scores: List of arrays: the scores of the groups of each set. Those with the lowest are removed first.
        losses: List of float arrays, one per set: `losses[s][n]` is the loss if n of its groups are removed,
            from 0 to all but one. They do not fall.
        rounding: The `Rounding` of the same model.
        round_to: Integer >= 1, as for the rounding.

    Attributes:
        cost: As given.
    """

    def __init__(
        self,
        cost: Cost,
        allocation: Allocation,
        scores: Sequence[np.ndarray],
        losses: Sequence[np.ndarray],
        rounding: Rounding,
        round_to: int = 1,
    ) -> None:
        self.cost, self._allocation, self._rounding, self._multiple = cost, allocation, rounding, round_to
        self._losses = [np.asarray(curve, float) for curve in losses]
        sets = allocation.sets
        self._sets = list(sets)
        self._orders = [its[np.argsort(mine, kind="stable")] for its, mine in zip(sets, scores, strict=True)]
        places = np.concatenate([np.arange(1, 1 + len(order)) / len(order) for order in self._orders])
        self._ranks = np.full(1 + max(int(order.max()) for order in self._orders), np.inf)
        self._ranks[np.concatenate(self._orders)] = places
        self._path: list[tuple[float, tuple[int, ...]]] | None = None

    def least(self) -> np.ndarray:
        """Returns the fewest groups that can be kept: boolean array, shape `(groups,)`."""
        return self._kept([len(order) - 1 for order in self._orders])

    def within(self, limit: float) -> np.ndarray | None:
        """Finds channels to keep with a small loss whose cost is at most a limit.

        Args:
            limit: Float, in the unit of the cost.

        Returns:
            The kept groups, a boolean array. None if no removal reaches the limit.
        """
        if self.cost.of(self.least()) > limit + ROUNDING:
            return None
        counts = next((counts for cost, counts in self._steps() if cost <= limit + ROUNDING), None)
        found = [self._filled(counts, limit)] if counts is not None else []
        uniform = self._uniform(limit)
        if uniform is not None:
            found.append(self._filled(uniform, limit))
        best = min(found, key=self.loss, default=None)
        return self.least() if best is None else self._kept(best)

    def loss(self, counts: Sequence[int]) -> float:
        """Adds up the losses of the sets if so many groups of each are removed."""
        return float(sum(curve[count] for curve, count in zip(self._losses, counts, strict=True)))

    def removed(self, kept: np.ndarray) -> list[int]:
        """Counts the removed groups of each set: `kept` is a boolean array, shape `(groups,)`."""
        return [int((~kept[groups]).sum()) for groups in self._sets]

    def rounded(self, kept: np.ndarray) -> np.ndarray:
        """Keeps more groups until the shapes of all layers are allowed, the best ones first."""
        ranks = np.full(len(kept), np.inf)
        ranks[: len(self._ranks)] = self._ranks
        return self._rounding.applied(kept, ranks)

    def _kept(self, counts):
        return self.rounded(self._allocation.without_counts(self._orders, counts))

    def _cost_of(self, counts):
        return self.cost.of(self._kept(counts))

    # -- the greedy steps ------------------------------------------------------------------------------

    def _steps(self):
        """Lists `(cost, removed per set)` of the whole model and after each step."""
        if self._path is None:
            corners = [_corners(curve, self._levels(len(curve))) for curve in self._losses]
            self._path = list(self._walk(corners))
        return self._path

    def _levels(self, channels):
        """Lists numbers of removed channels, such that the kept ones are multiples of `round_to`."""
        step = self._multiple * max(1, math.ceil(channels / self._multiple / _LEVELS))
        start = channels % self._multiple
        return [0, *(count for count in range(start, channels, step) if count), channels - 1]

    def _walk(self, corners):
        at, counts = [0] * len(corners), [0] * len(corners)
        cost = self._cost_of(counts)
        yield cost, tuple(counts)

        def candidate(index):
            """Returns `(loss per cost, set, corner)` of the next step of a set that saves something."""
            for corner in range(at[index] + 1, len(corners[index])):
                after = [*counts[:index], corners[index][corner], *counts[index + 1 :]]
                saved = cost - self._cost_of(after)
                if saved > ROUNDING:
                    curve = self._losses[index]
                    return (curve[after[index]] - curve[counts[index]]) / saved, index, corner
            return None

        heap = [found for found in map(candidate, range(len(corners))) if found]
        heapq.heapify(heap)
        while heap:
            _, index, _ = heapq.heappop(heap)
            found = candidate(index)  # earlier steps have changed what it saves
            if found is None:
                continue
            if heap and found > heap[0]:
                heapq.heappush(heap, found)
                continue
            at[index] = found[2]
            counts[index] = corners[index][found[2]]
            cost = self._cost_of(counts)
            yield cost, tuple(counts)
            following = candidate(index)
            if following:
                heapq.heappush(heap, following)

    # -- within a limit --------------------------------------------------------------------------------

    def _filled(self, counts, limit):
        """Takes removals back, as far as the limit allows: first those with the largest loss per cost."""
        counts, cost, loss = list(counts), self._cost_of(counts), self.loss(counts)

        def regained(index):
            fewer = [*counts[:index], max(0, counts[index] - self._multiple), *counts[index + 1 :]]
            return (loss - self.loss(fewer)) / max(self._cost_of(fewer) - cost, ROUNDING)

        for index in sorted(range(len(counts)), key=regained, reverse=True):
            low, high = 0, counts[index]  # the fewest removals that meet the limit
            while low < high:
                middle = (low + high) // 2
                after = [*counts[:index], middle, *counts[index + 1 :]]
                if self._cost_of(after) <= limit + ROUNDING:
                    high = middle
                else:
                    low = middle + 1
            counts[index] = high
        return counts

    def _uniform(self, limit):
        """Returns the removals per set of the same fraction everywhere. None if it reaches no limit."""
        found, low, high = None, 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            kept = self._allocation.without(self._orders, middle, self._multiple)
            counts = self.removed(kept)
            if self._cost_of(counts) <= limit + ROUNDING:
                found, high = counts, middle
            else:
                low = middle
        return found


def _corners(curve, levels):
    """Lists the levels at the corners of the lower convex hull of a curve."""
    corners: list[int] = []
    for level in sorted(set(levels)):
        while len(corners) > 1 and _is_above(curve, corners[-2], corners[-1], level):
            corners.pop()
        corners.append(level)
    return corners


def _is_above(curve, left, middle, right):
    """Whether a point is on or above the line between two others."""
    line = curve[left] + (curve[right] - curve[left]) * (middle - left) / (right - left)
    return curve[middle] >= line
