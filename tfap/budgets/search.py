"""The search for the channels to keep: by a predicted cost, corrected by measurements of the model."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tfap.budgets.budget import Budget
from tfap.budgets.meters import Meter
from tfap.budgets.parts import weight_count
from tfap.graph.flops import flops
from tfap.keras_compat.types import Model
from tfap.utils.progress import Progress

ROUNDS = 8  # of interpolating, building a smaller model, and measuring it
_ACCEPTED = {"bytes": (0.994, 1.0), "latency_ms": (0.965, 1.005), "speedup": (0.965, 1.005)}
_AIM = {"bytes": 0.998, "latency_ms": 0.985, "speedup": 0.985}  # of the limit
PROBES = (1.06, 1.12, 1.19, 1.27, 1.36, 0.94, 0.88)  # times the cost where a measurement jumps
# Of the whole cost: so near to each other, two points have nothing between them to find.
_NARROW = {"bytes": 0.0, "latency_ms": 0.01, "speedup": 0.01}
TOLERANCE = 0.05  # by which a measured time may miss the budget


class Cost(Protocol):
    """A cost of the whole model by its kept channels, such as `costs.Cost`."""

    @property
    def total(self) -> float: ...

    @property
    def limit(self) -> float: ...

    def of(self, kept: np.ndarray) -> float: ...


class KeptChannels(Protocol):
    """Kept channels by the cost that they may have, such as `proposals.Proposals`."""

    @property
    def cost(self) -> Cost: ...

    def least(self) -> np.ndarray: ...

    def within(self, limit: float) -> np.ndarray | None: ...


@dataclasses.dataclass(frozen=True)
class BudgetResult:
    """What a budget asked for, and what the model is.

    Values are weights, bytes, FLOPs, or milliseconds per call.

    Attributes:
        budget: The `Budget`.
        own: Float. What the given model uses.
        limit: Float. The most that the budget allows.
        predicted: Float. What was predicted for the first smaller model, before it was measured.
        reached: Float. What the smaller model uses, measured for bytes and times.
        rounds: Integer. Number of smaller models that were measured in the search.
    """

    budget: Budget
    own: float
    limit: float
    predicted: float
    reached: float
    rounds: int = 0

    @property
    def meets(self) -> bool:
        """Whether the budget is met: times within 5%, other units exactly."""
        return self.reached <= self.limit * (1 + TOLERANCE * self.budget.is_timed)

    @property
    def is_near(self) -> bool:
        """Whether the budget is met and nearly used up, or needs nothing removed."""
        return self.meets and (self.reached >= self.limit * (1 - TOLERANCE) or self.limit >= self.own)

    @property
    def is_slower(self) -> bool:
        """Whether the smaller model was measured to be slower than the given one."""
        return self.budget.is_timed and self.reached > self.own

    def warn(self) -> None:
        """Warns if the budget is not met, or the smaller model is slower than the given one."""
        if not self.meets or self.is_slower:
            warnings.warn(str(self), stacklevel=4)

    def __str__(self) -> str:
        text = (
            f"Budget of {self.budget}: {self.budget.amount_of(self.own)} before, at most "
            f"{self.budget.amount_of(self.limit)}; {self.budget.amount_of(self.reached)} reached"
        )
        if self.budget.is_timed:
            text += f", {self.own / self.reached:.2f}x as fast"
        if self.is_slower:
            return f"{text}. The smaller model is slower than the given one."
        if not self.meets:
            return f"{text}, which does not meet it."
        return f"{text}{'' if self.is_near else ', the nearest that was found'}."


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The channels that the search keeps.

    Attributes:
        kept: Boolean array, shape `(groups,)`.
        result: The `BudgetResult` of a model with these shapes.
    """

    kept: np.ndarray
    result: BudgetResult


@dataclasses.dataclass(frozen=True, eq=False)
class _Point:
    cost: float
    kept: np.ndarray | None
    measured: float


class Search:
    """Finds the channels to keep for a budget.

    For weights and FLOPs, the cost is exact. For bytes and times, smaller models are built and measured
    until one meets the budget: each measurement corrects the limit on the predicted cost.

    Args:
        budget: The `Budget`.
        meter: The `Meter` of the budget. None for weights and FLOPs.
        build: Function of kept groups that returns a model with these shapes, to measure.
    """

    def __init__(self, budget: Budget, meter: Meter | None, build: Callable[[np.ndarray], Model]) -> None:
        self._budget, self._meter, self._build = budget, meter, build
        self._leasts: dict[int, float] = {}  # by the number of kept groups, which tells the shapes

    def check(self, proposals: KeptChannels) -> None:
        """Checks that the fewest channels meet the budget, before any long work.

        Raises:
            ValueError: If they do not. The message has the least that can be asked for.
        """
        least = proposals.least()
        if self._meter is None:
            self._budget.check_reachable(proposals.cost.of(least), proposals.cost.total)
            return
        self._budget.check_reachable(self._measured_least(least), self._meter.own())

    def run(self, proposals: KeptChannels) -> Found:
        """Finds the channels to keep.

        Args:
            proposals: The `KeptChannels`.

        Returns:
            A `Found`.

        Raises:
            ValueError: If the fewest channels do not meet the budget.
        """
        self.check(proposals)
        cost = proposals.cost
        if self._meter is None:
            kept = proposals.within(cost.limit)
            assert kept is not None  # check() raises
            value = cost.of(kept)
            return Found(kept, BudgetResult(self._budget, cost.total, cost.limit, value, value))
        return self._corrected(proposals)

    def finished(self, model: Model, result: BudgetResult) -> BudgetResult:
        """Returns the result with what the finished model uses."""
        if self._meter is not None:
            reached = self._meter.of(model)
            own = self._meter.own()
            return dataclasses.replace(result, own=own, limit=self._budget.limit(own), reached=reached)
        count = weight_count if self._budget.unit == "weights" else flops
        return dataclasses.replace(result, reached=float(count(model)))

    def run_each(self, proposals: Sequence[KeptChannels]) -> tuple[Found, int]:
        """Searches in several `KeptChannels`, one after another, until one comes near to the limit.

        Returns:
            Tuple of the `Found` that is nearest to the limit, and the position of its `KeptChannels`.

        Raises:
            ValueError: If the fewest channels of none of them meet the budget.
        """
        found: list[tuple[_Point, Found, int]] = []
        for at, each in enumerate(proposals):
            try:
                its = self.run(each)
            except ValueError:
                if found or at + 1 < len(proposals):
                    continue
                raise
            found.append((_Point(0.0, its.kept, its.result.reached), its, at))
            if its.result.is_near:
                break
        best = found[0][0] if len(found) == 1 else self._best([point for point, _, _ in found])
        chosen, at = next((its, at) for point, its, at in found if point is best)
        rounds = sum(its.result.rounds for _, its, _ in found)
        return Found(chosen.kept, dataclasses.replace(chosen.result, rounds=rounds)), at

    def _measured_least(self, kept):
        assert self._meter is not None
        groups = int(kept.sum())
        if groups not in self._leasts:
            self._leasts[groups] = self._meter.of(self._build(kept))
        return self._leasts[groups]

    def _corrected(self, proposals):
        assert self._meter is not None
        own, cost = self._meter.own(), proposals.cost
        if own <= self._budget.limit(own):
            every = proposals.within(cost.total)
            return Found(every, BudgetResult(self._budget, own, self._budget.limit(own), own, own))
        least = proposals.least()
        points = [_Point(cost.of(least), least, self._measured_least(least)), _Point(cost.total, None, own)]
        with Progress("Measuring smaller models", ROUNDS) as progress:
            for limit in self._limits(points, cost.total):
                kept = proposals.within(limit)
                if kept is not None and not _is_known(kept, points):
                    points.append(_Point(cost.of(kept), kept, self._meter.of(self._build(kept))))
                    progress.advance()
                    if self._is_accepted(points[-1]):
                        break
        return self._found(points)

    def _limits(self, points, total):
        """Yields limits on the predicted cost to try, by the points that are measured until then."""
        aim = _AIM[self._budget.unit]
        for _ in range(ROUNDS):
            low, high = _bracket(points, aim * self._limit())
            if high.cost - low.cost <= _NARROW[self._budget.unit] * total:
                break
            before = len(points)
            yield _next_cost(points, aim * self._limit())
            if len(points) == before:
                break  # there is nothing between two points
        if self._budget.is_timed:
            # Some runtimes are slower with fewer channels, by what is left of their blocks.
            at = _bracket(points, aim * self._limit())[0].cost
            yield from (at * factor for factor in PROBES if at * factor < total)

    def _limit(self):
        return self._budget.limit(self._meter.own())

    def _is_accepted(self, point):
        low, high = _ACCEPTED[self._budget.unit]
        return low * self._limit() <= point.measured <= high * self._limit()

    def _found(self, points):
        best = self._best([point for point in points if point.kept is not None])
        first = points[2] if len(points) > 2 else best
        predicted = _interpolated(points[:2], first.cost)
        own, limit = self._meter.own(), self._limit()
        return Found(
            best.kept, BudgetResult(self._budget, own, limit, predicted, best.measured, len(points) - 2)
        )

    def _best(self, points):
        """Returns the point nearest to the limit: below it for bytes, within the tolerance for times."""
        allowed = self._limit() * (1 + TOLERANCE * self._budget.is_timed)
        inside = [point for point in points if point.measured <= allowed]
        aim = _AIM[self._budget.unit] * self._limit()
        return min(inside or points, key=lambda point: abs(math.log(point.measured / aim)))


def _is_known(kept, points):
    return any(np.array_equal(kept, point.kept) for point in points if point.kept is not None)


def _interpolated(points, cost):
    """Interpolates the measurement at a cost between the points with the fewest channels and with all."""
    ends = sorted(points, key=lambda point: point.cost)
    return float(np.interp(cost, [point.cost for point in ends], [point.measured for point in ends]))


def _next_cost(points: list[_Point], aim: float) -> float:
    """Interpolates the cost at which a measurement would be what is aimed at.

    Args:
        points: List of at least two `_Point`s: with the fewest channels, and with all.
        aim: Float. The measurement to reach.

    Returns:
        Float. A cost between the nearest points below and above, never at one of them.

    >>> few, all_ = _Point(0.0, None, 1.0), _Point(10.0, None, 6.0)
    >>> _next_cost([few, all_], 2.0), round(_next_cost([few, all_], 1.01), 2)
    (2.0, 0.5)
    """
    low, high = _bracket(points, aim)
    part = (aim - low.measured) / (high.measured - low.measured) if high.measured != low.measured else 0.5
    return low.cost + min(max(part, 0.05), 0.95) * (high.cost - low.cost)


def _bracket(points, aim):
    """Returns the largest model that meets what is aimed at, and the smallest larger one that does not."""
    meeting = [point for point in points if point.measured <= aim]
    if not meeting:
        low = min(points, key=lambda point: point.cost)
    else:
        low = max(meeting, key=lambda point: point.cost)
    above = [point for point in points if point.measured > aim and point.cost > low.cost]
    return low, min(above, key=lambda point: point.cost, default=low)
