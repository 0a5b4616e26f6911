"""Which channels to keep, for a sparsity or a budget."""

from collections.abc import Sequence

import numpy as np

from tfap.budgets.allocated import AllocatedProposals
from tfap.budgets.budget import Budget
from tfap.budgets.latency_cost import latency_cost
from tfap.budgets.meters import meter_of
from tfap.budgets.proposals import Proposals
from tfap.budgets.rounding import Rounded, Rounding
from tfap.budgets.search import BudgetResult, Search
from tfap.compaction.allocation import Allocation, removed_counts
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.shapes import with_channels
from tfap.compensation.allocation import Allocation as RemovalOrders
from tfap.compensation.allocation import ModelCost
from tfap.keras_compat.types import Model


class Choice:
    """Chooses the channels to keep.

    Args:
        model: The given model.
        removable: Its `RemovableChannels`.
        goal: Float in [0, 1): the fraction of the target that is removed at most. Or a `Budget`. Or an
            `Allocation`, which says how many channels each layer loses.
        target: Unit of the fraction: "weights", "flops", or "neurons".
        scope: "local" removes the same fraction of channels from every layer; "global" ranks all together.
        round_to: Integer >= 1. A layer with at least as many channels keeps a multiple of it, or all.

    Attributes:
        losses: List of arrays, as in `AllocatedProposals`, which may be set before `kept`: the sum of the
            losses is kept small then, whatever the scope. None by default.
        result: `BudgetResult`, from `kept` on. None for a fraction.
        rounded: `Rounded`, from `kept` on. None if `round_to` is 1.
    """

    def __init__(
        self,
        model: Model,
        removable: RemovableChannels,
        goal: float | Budget | Allocation,
        target: str = "weights",
        scope: str = "local",
        round_to: int = 1,
    ) -> None:
        self._model, self._removable, self._goal = model, removable, goal
        self._target, self._scope, self._round_to = target, scope, round_to
        self._liveness = removable.liveness
        self._search: Search | None = None
        self.result: BudgetResult | None = None
        self.rounded: Rounded | None = None
        self.losses: Sequence[Sequence[float]] | None = None
        if isinstance(goal, Allocation):
            self._counts = removed_counts(removable, goal)
        self._cost = self._cost_of(goal, removable.model)
        if isinstance(goal, Budget):
            meter = meter_of(model, goal) if goal.is_exported else None
            self._search = Search(goal, meter, self._build)
            self._search.check(self._proposals([np.zeros(len(its)) for its in removable.sets]))

    def kept(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Chooses by scores: one array per set of `removable.sets`. Returns the kept groups, a boolean array.

        Raises:
            ValueError: If the budget cannot be met.
        """
        if self._search is None:
            kept = self._of_fraction(scores)
        else:
            proposals = self._proposals(scores)
            found = self._search.run(proposals)
            kept, self.result = found.kept, found.result
        if self._round_to > 1:
            if self._search is None:
                kept = self._proposals(scores).rounded(kept)
            self.rounded = self._compared(kept, scores)
        return kept

    def finish(self, model: Model) -> None:
        """Measures the finished model, and warns if it does not meet the budget, or is slower."""
        if self._search is None or self.result is None:
            return
        self.result = self._search.finished(model, self.result)
        self.result.warn()

    # -- the parts of the search -----------------------------------------------------------------------

    def _proposals(self, scores, round_to=None):
        round_to = round_to or self._round_to
        order = RemovalOrders(self._cost, self._liveness, self._removable.sets)
        rounding = Rounding(self._liveness, round_to, self._removable.evened)
        if self.losses is not None:
            losses = [np.asarray(curve) for curve in self.losses]
            return AllocatedProposals(self._cost, order, scores, losses, rounding, round_to)
        return Proposals(self._cost, order, scores, self._scope, rounding, round_to)

    def _cost_of(self, goal, model):
        if not isinstance(goal, Budget):
            return ModelCost(
                model, self._liveness, self._target, self._removable.prunable, self._removable.by_heads
            )
        return (
            latency_cost(model, self._liveness, goal) if goal.is_timed else goal.cost(model, self._liveness)
        )

    def _of_fraction(self, scores):
        allocation = RemovalOrders(self._cost, self._liveness, self._removable.sets)
        orders = [its[np.argsort(mine, kind="stable")] for its, mine in zip(self._removable.sets, scores)]
        if isinstance(self._goal, Allocation):
            return self._removable.evened(allocation.without_counts(orders, self._counts))
        if self.losses is not None:
            proposals = self._proposals(scores, round_to=1)
            kept = proposals.within(self._cost.total - round(self._goal * self._cost.total))
            return proposals.least() if kept is None else kept
        if self._scope == "global":
            return self._removable.evened(allocation.of_lowest(scores, self._goal))
        return self._removable.evened(allocation.of_same_fraction(orders, self._goal))

    def _build(self, kept):
        in_bytes = isinstance(self._goal, Budget) and self._goal.unit == "bytes"
        return with_channels(self._removable.model, kept, varied=in_bytes)

    # -- rounding --------------------------------------------------------------------------------------

    def _compared(self, with_rounding, scores):
        """Describes what rounding kept, next to kept groups without it."""
        without = self._without_rounding(with_rounding, scores)
        rounding = Rounding(self._liveness, self._round_to, self._removable.evened)
        both = (without, with_rounding)
        channels = tuple(rounding.channels(kept) for kept in both)
        weights, operations = (
            None if cost is None else tuple(round(cost.of(kept)) for kept in both)
            for cost in (self._counted("weights"), self._counted("flops"))
        )
        return Rounded(self._round_to, channels, weights, operations)

    def _without_rounding(self, kept, scores):
        if self._search is None:
            return self._of_fraction(scores)
        found = self._proposals(scores, round_to=1).within(self._cost.of(kept))
        return kept if found is None else found

    def _counted(self, unit):
        try:
            return Budget(unit, 1.0).cost(self._removable.model, self._liveness)
        except ValueError:  # FLOPs that depend on undefined dimensions
            return None
