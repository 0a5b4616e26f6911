"""Which channels to keep, for a limit on the cost of the whole model."""

from collections.abc import Sequence

import numpy as np

from tfap.budgets.costs import ROUNDING, Cost
from tfap.budgets.rounding import Rounding
from tfap.compensation.allocation import Allocation

_STEPS = 40
_GOLDEN = 0.618033988749895  # multiples of it are spread evenly between integers


class Proposals:
    """Kept channels by the largest cost that they may have.

    Args:
        cost: A `Cost` of the model.
        allocation: The `Allocation` of the same model.
        scores: List of arrays: the scores of the groups of each set of the allocation.
        scope: "local" removes the same fraction of channels from every set; "global" ranks all together.
        rounding: The `Rounding` of the same model.
        round_to: Integer >= 1, as for the rounding.
    """

    def __init__(
        self,
        cost: Cost,
        allocation: Allocation,
        scores: Sequence[np.ndarray],
        scope: str,
        rounding: Rounding,
        round_to: int = 1,
    ) -> None:
        self.cost, self._allocation, self._scope = cost, allocation, scope
        self._rounding, self._multiple = rounding, round_to
        sets = allocation.sets
        groups, values = np.concatenate(sets), np.concatenate(scores)
        self._order = groups[np.argsort(values, kind="stable")]
        self._orders = [its[np.argsort(mine, kind="stable")] for its, mine in zip(sets, scores)]
        self._phases = [(1 + at) * _GOLDEN % 1 for at in range(len(sets))]
        self._ranks = np.full(int(groups.max()) + 1, np.inf)
        self._ranks[self._order] = np.arange(len(groups))

    def least(self) -> np.ndarray:
        """Returns the fewest groups that can be kept: boolean array, shape `(groups,)`."""
        return self.rounded(self._at(1.0))

    def within(self, limit: float) -> np.ndarray | None:
        """Removes as few groups as possible so that the cost is at most a limit.

        Args:
            limit: Float, in the unit of the cost.

        Returns:
            The kept groups, a boolean array. None if no removal reaches the limit.
        """
        every = self.rounded(self._at(0.0))
        if self.cost.of(every) <= limit + ROUNDING:
            return every
        found = self.least()
        if self.cost.of(found) > limit + ROUNDING:
            return None
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            kept = self.rounded(self._at(middle))
            if self.cost.of(kept) <= limit + ROUNDING:
                found, high = kept, middle
            else:
                low = middle
        return self._filled(found, limit)

    def _filled(self, kept, limit):
        """Keeps one more step of every set, as far as the limit allows, the best groups first."""
        best = [order[~kept[order]][-self._multiple :] for order in self._orders]
        for groups in sorted((its for its in best if len(its)), key=lambda its: -self._ranks[its[-1]]):
            more = kept.copy()
            more[groups] = True
            more = self.rounded(more)
            if self.cost.of(more) <= limit + ROUNDING:
                kept = more
        return kept

    def _at(self, fraction):
        """Removes a fraction of the groups: of every set, or of all together."""
        if self._scope == "global":
            return self._allocation.without_first(self._order, round(fraction * len(self._order)))
        return self._allocation.without(self._orders, fraction, self._multiple, self._phases)

    def rounded(self, kept: np.ndarray) -> np.ndarray:
        """Keeps more groups until the shapes of all layers are allowed, the best ones first."""
        ranks = np.full(len(kept), np.inf)
        ranks[: len(self._ranks)] = self._ranks
        return self._rounding.applied(kept, ranks)
