"""The final sparsity with which a training meets a budget, found before it starts."""

import dataclasses
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.budgets.budget import Budget
from tfap.budgets.latency_cost import latency_cost
from tfap.budgets.meters import meter_of
from tfap.budgets.rounding import multiples
from tfap.budgets.search import BudgetResult, Search
from tfap.budgets.trained import TrainedChannels
from tfap.compaction.shapes import with_channels
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import make_plan


class BudgetOfFit:
    """A budget of `tfap.fit_and_compact`.

    Args:
        model: The given model, without wrappers.
        budget: The `Budget`.
        options: Dict of the arguments of `tfap.prune`.

    Attributes:
        sparsity: Float in [0, 1). The final sparsity.
        round_to: Integer >= 1. Layers keep a multiple of so many channels.

    Raises:
        ValueError: If the budget cannot be met, or the scope is "global" or "isomorphic".
    """

    def __init__(self, model: Model, budget: Budget, options: dict[str, Any]) -> None:
        keras_compat.check_plain(model, "tfap.fit_and_compact")
        selection = {name: options[name] for name in ("include", "skip")}
        rest = {name: value for name, value in options.items() if name not in (*selection, "round_to")}
        settings = PruningSettings(0.0, **rest)
        plan = make_plan(model, settings, **selection)
        if not plan.pruned:
            raise ValueError(f"There is nothing to prune in the model '{model.name}':\n{plan}")
        self._model, self._in_bytes = model, budget.unit == "bytes"
        liveness = Liveness(model)
        cost = latency_cost(model, liveness, budget) if budget.is_timed else budget.cost(model, liveness)
        pruned = [(row.path, row.weight) for row in plan.pruned if row.weight is not None]
        meter = meter_of(model, budget) if budget.is_exported else None
        self._search = Search(budget, meter, self._build)
        allowed = (1,) if settings.granularity == "head" else multiples(options["round_to"], budget)
        channels = [
            TrainedChannels(model, liveness, cost, dataclasses.replace(settings, round_to=each), pruned)
            for each in allowed
        ]
        found, at = self._search.run_each(channels)
        self._result, self.round_to = found.result, allowed[at]
        self.sparsity = channels[at].sparsity_of(found.kept)

    def _build(self, kept: np.ndarray) -> Model:
        return with_channels(self._model, kept, varied=self._in_bytes)

    def finished(self, model: Model) -> BudgetResult:
        """Measures the trained model. Warns if it does not meet the budget, or is slower."""
        result = self._search.finished(model, self._result)
        result.warn()
        return result
