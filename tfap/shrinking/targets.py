"""The budgets of the stages on the way to the budget of the whole."""

import dataclasses
import math

from tfap.budgets.budget import Budget
from tfap.budgets.meters import meter_of
from tfap.exporting.sizes import count_weights
from tfap.graph.flops import flops
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class Targets:
    """Budgets between the given model and the smallest one, in equal ratios.

    Attributes:
        budget: The `Budget` of the whole.
        own: Float. What the given model uses: weights, bytes, FLOPs, or milliseconds per call.
        limit: Float. What the budget allows.
    """

    budget: Budget
    own: float
    limit: float

    @classmethod
    def of(cls, budget: Budget, own: float) -> "Targets":
        """Makes the targets for what the given model uses."""
        return cls(budget, own, budget.limit(own))

    def at(self, part: float, reached: float = 1.0) -> Budget:
        """Returns the budget of a model at a part of the way.

        Args:
            part: Float in (0, 1]. 1 is the budget of the whole.
            reached: Float. For times, how many times as fast as the given one the model to prune is already.

        Returns:
            A `Budget` of the model to prune: absolute, or for times relative to that model.
        """
        if self.budget.is_timed:
            speedup = max(1.0, (self.own / self.limit) ** part / reached)
            return dataclasses.replace(self.budget, unit="speedup", amount=speedup)
        amount = self.own * (self.limit / self.own) ** part
        return dataclasses.replace(self.budget, amount=max(1, math.floor(amount + 1e-6)))


def use_of(model: Model, budget: Budget) -> float:
    """Measures or counts what a model uses in the unit of the limit of a budget."""
    if budget.is_exported:
        return meter_of(model, budget).own()
    return float(flops(model) if budget.unit == "flops" else count_weights(model.get_weights()).total)
