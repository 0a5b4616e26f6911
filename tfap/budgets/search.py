"""The search for the channels to keep: by a predicted cost, corrected by measurements of the model."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tfap.budgets.budget import Budget
from tfap.budgets.meters import Meter
from tfap.budgets.parts import weight_count
from tfap.graph.flops import flops
from tfap.keras_compat.types import Model
from tfap.utils.progress import Progress

ROUNDS = 8  # of building a smaller model and measuring it
_ACCEPTED = {"bytes": (0.985, 1.0), "latency_ms": (0.965, 1.005), "speedup": (0.965, 1.005)}
_AIM = {"bytes": 0.997, "latency_ms": 0.985, "speedup": 0.985}  # of the limit
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
        is_near = self.reached >= self.limit * (1 - TOLERANCE) or self.limit >= self.own
        return f"{text}{'' if is_near else ', the nearest that was found'}."


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
        self._least: float | None = None

    def check(self, proposals: KeptChannels) -> None:
        """Checks that the fewest channels meet the budget, before any long work.

        Raises:
            ValueError: If they do not. The message has the least that can be asked for.
        """
        least = proposals.least()
        if self._meter is None:
            self._budget.check_reachable(proposals.cost.of(least), proposals.cost.total)
            return
        self._least = self._meter.of(self._build(least))
        self._budget.check_reachable(self._least, self._meter.own())

    def run(self, proposals: KeptChannels) -> Found:
        """Finds the channels to keep.

        Args:
            proposals: The `KeptChannels`.

        Returns:
            A `Found`.

        Raises:
            ValueError: If the fewest channels do not meet the budget.
        """
        if self._least is None:
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

    def _corrected(self, proposals):
        meter, cost, unit = self._meter, proposals.cost, self._budget.unit
        least = proposals.least()
        if meter.own() <= self._budget.limit(meter.own()):
            every = proposals.within(cost.total)
            own = meter.own()
            return Found(every, BudgetResult(self._budget, own, self._budget.limit(own), cost.of(every), own))
        points = [_Point(cost.of(least), least, self._least), _Point(cost.total, None, meter.own())]
        predicted = None
        with Progress("Measuring smaller models", ROUNDS) as progress:
            for _ in range(ROUNDS):
                limit = self._budget.limit(meter.own())
                kept = proposals.within(_next_cost(points, _AIM[unit] * limit))
                if kept is None or any(
                    np.array_equal(kept, point.kept) for point in points if point.kept is not None
                ):
                    break  # there is nothing between two points
                measured = meter.of(self._build(kept))
                predicted = predicted or _interpolated(points, cost.of(kept))
                points.append(_Point(cost.of(kept), kept, measured))
                progress.advance()
                low, high = _ACCEPTED[unit]
                if low * limit <= measured <= high * limit:
                    break
        limit = self._budget.limit(meter.own())
        best = self._best([point for point in points if point.kept is not None], limit)
        result = BudgetResult(
            self._budget, meter.own(), limit, predicted or best.measured, best.measured, len(points) - 2
        )
        return Found(best.kept, result)

    def _best(self, points, limit):
        """Returns the point nearest to the limit: below it for bytes, within the tolerance for times."""
        allowed = limit * (1 + TOLERANCE * self._budget.is_timed)
        inside = [point for point in points if point.measured <= allowed]
        aim = _AIM[self._budget.unit] * limit
        return min(inside or points, key=lambda point: abs(math.log(point.measured / aim)))


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
    low = max(
        (point for point in points if point.measured <= aim), key=lambda point: point.cost, default=None
    )
    low = low or min(points, key=lambda point: point.cost)
    above = [point for point in points if point.measured > aim and point.cost > low.cost]
    if not above:
        return low.cost
    high = min(above, key=lambda point: point.cost)
    part = (aim - low.measured) / (high.measured - low.measured) if high.measured != low.measured else 0.5
    return low.cost + min(max(part, 0.05), 0.95) * (high.cost - low.cost)
