"""Which channels to keep, for a sparsity or a budget."""

import collections
from collections.abc import Sequence

import numpy as np

from tfap.budgets.allocated import AllocatedProposals
from tfap.budgets.budget import Budget
from tfap.budgets.latency_cost import latency_cost
from tfap.budgets.meters import meter_of
from tfap.budgets.proposals import Proposals
from tfap.budgets.rounding import Rounded, Rounding, multiples
from tfap.budgets.search import BudgetResult, Search
from tfap.compaction.allocation import Allocation, removed_counts
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.shapes import with_channels
from tfap.compensation.allocation import Allocation as RemovalOrders
from tfap.compensation.allocation import ModelCost
from tfap.graph.structure import Structures
from tfap.keras_compat.types import Model


class Choice:
    """Chooses the channels to keep.

    Args:
        model: The given model.
        removable: Its `RemovableChannels`.
        goal: Float in [0, 1): the fraction of the target that is removed at most. Or a `Budget`. Or an
            `Allocation`, which says how many channels each layer loses.
        target: Unit of the fraction: "weights", "flops", or "neurons".
        scope: "local" removes the same fraction of channels from every layer; "global" ranks all together;
            "isomorphic" ranks the sets of equal structure together, and removes the same fraction of each.
        round_to: Integer >= 1. A layer with at least as many channels keeps a multiple of it, or all. None
            is 8 for budgets of time, or 1 if no multiples of 8 come near, and 1 for everything else.

    Attributes:
        round_to: Integer, which `kept` may change if it was None.
        losses: List of arrays, as in `AllocatedProposals`, which may be set before `kept`: the sum of the
            losses is kept small then, whatever the scope. None by default.
        result: `BudgetResult`, from `kept` on. None for a fraction.
        rounded: `Rounded`, from `kept` on. None if `round_to` is 1 then.
    """

    def __init__(
        self,
        model: Model,
        removable: RemovableChannels,
        goal: float | Budget | Allocation,
        target: str = "weights",
        scope: str = "local",
        round_to: int | None = None,
    ) -> None:
        self._model, self._removable, self._goal = model, removable, goal
        self._target, self._scope = target, scope
        self._multiples = multiples(round_to, goal)
        self.round_to = self._multiples[0]
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
            self._check([np.zeros(len(its)) for its in removable.sets])

    def kept(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Chooses by scores: one array per set of `removable.sets`. Returns the kept groups, a boolean array.

        Raises:
            ValueError: If the budget cannot be met.
        """
        if self._search is None:
            kept = self._of_fraction(scores)
        else:
            found, at = self._search.run_each([self._proposals(scores, each) for each in self._multiples])
            kept, self.result, self.round_to = found.kept, found.result, self._multiples[at]
        if self.round_to > 1:
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

    def _check(self, scores):
        """Leaves out multiples that no number of channels meets the budget with."""
        while True:
            try:
                return self._search.check(self._proposals(scores))
            except ValueError:
                if len(self._multiples) == 1:
                    raise
                self._multiples = self._multiples[1:]
                self.round_to = self._multiples[0]

    def _proposals(self, scores, round_to=None):
        round_to = round_to or self.round_to
        sets, scores = self._ranked_together(scores)
        order = RemovalOrders(self._cost, self._liveness, sets)
        rounding = Rounding(self._liveness, round_to, self._removable.evened)
        if self.losses is not None:
            losses = [np.asarray(curve) for curve in self.losses]
            return AllocatedProposals(self._cost, order, scores, losses, rounding, round_to)
        return Proposals(self._cost, order, scores, self._scope, rounding, round_to)

    def _cost_of(self, goal, model):
        if not isinstance(goal, Budget):
            return ModelCost(
                model, self._liveness, self._target, self._removable.prunable, self._removable.with_heads
            )
        return (
            latency_cost(model, self._liveness, goal) if goal.is_timed else goal.cost(model, self._liveness)
        )

    def _of_fraction(self, scores):
        sets, ranked = self._ranked_together(scores)
        allocation = RemovalOrders(self._cost, self._liveness, sets)
        orders = [its[np.argsort(mine, kind="stable")] for its, mine in zip(sets, ranked)]
        if isinstance(self._goal, Allocation):
            return self._removable.evened(allocation.without_counts(orders, self._counts))
        if self.losses is not None:
            proposals = self._proposals(scores, round_to=1)
            kept = proposals.within(self._cost.total - round(self._goal * self._cost.total))
            return proposals.least() if kept is None else kept
        if self._scope == "global":
            return self._removable.evened(allocation.of_lowest(scores, self._goal))
        return self._removable.evened(allocation.of_same_fraction(orders, self._goal))

    def _ranked_together(self, scores):
        """Returns the sets of groups that are ranked together, and their scores."""
        if self._scope != "isomorphic" or isinstance(self._goal, Allocation):
            return self._removable.sets, scores
        structures = Structures(self._liveness.graph, self._liveness.channels)
        members = collections.defaultdict(list)
        for its, mine in zip(self._removable.sets, scores):
            members[structures.of(its)].append((its, mine))
        parts = [tuple(map(np.concatenate, zip(*its))) for its in members.values()]
        return [its for its, _ in parts], [mine for _, mine in parts]

    def _build(self, kept):
        in_bytes = isinstance(self._goal, Budget) and self._goal.unit == "bytes"
        return with_channels(self._removable.model, kept, varied=in_bytes)

    # -- rounding --------------------------------------------------------------------------------------

    def _compared(self, with_rounding, scores):
        """Describes what rounding kept, next to kept groups without it."""
        without = self._without_rounding(with_rounding, scores)
        rounding = Rounding(self._liveness, self.round_to, self._removable.evened)
        both = (without, with_rounding)
        channels = tuple(rounding.channels(kept) for kept in both)
        weights, operations = (
            None if cost is None else tuple(round(cost.of(kept)) for kept in both)
            for cost in (self._counted("weights"), self._counted("flops"))
        )
        return Rounded(self.round_to, channels, weights, operations)

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
