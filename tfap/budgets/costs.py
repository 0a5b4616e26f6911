"""Costs of a whole model that its kept channels decide: numbers of weights, and FLOPs."""

import collections
from collections.abc import Callable, Sequence

import numpy as np

from tfap.budgets.parts import Part, parts_of, weight_count
from tfap.graph.flops import layer_flops
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model

ROUNDING = 1e-6  # costs are integers, computed in floating point


class Cost:
    """A cost of the whole model, and how much of it a budget allows.

    Args:
        parts: List of `Part`.
        each: Dict of path to the cost per weight of its layer's kernels. Other weights cost nothing. None if
            every weight costs 1.
        total: Float. The cost of the whole model.
        limit: Float. The cost that a smaller model may have.

    Attributes:
        total: As given.
        limit: As given.
    """

    def __init__(
        self, parts: Sequence[Part], each: dict[str, float] | None, total: float, limit: float
    ) -> None:
        weights = [
            (part, 1.0 if each is None else each.get(part.path, 0.0) * part.in_kernel) for part in parts
        ]
        self._parts = [(part, weight) for part, weight in weights if weight]
        self.total, self.limit = total, limit
        every = np.ones(1 + max((_largest(part) for part in parts), default=0), bool)
        self._fixed = total - self._removable(every)

    def of(self, kept: np.ndarray) -> float:
        """Computes the cost with the kept groups: boolean array, shape `(groups,)`."""
        return self._fixed + self._removable(kept)

    def _removable(self, kept):
        return float(sum(weight * part.of(kept) for part, weight in self._parts))

    def allows(self, kept: np.ndarray) -> bool:
        """Returns whether the cost with the kept groups is within the limit."""
        return self.of(kept) <= self.limit + ROUNDING


def _largest(part):
    return max(
        int(side.max(initial=0)) for side in (part.inputs, part.outputs, np.zeros(1, int)) if side is not None
    )


def weight_cost(model: Model, liveness: Liveness, limit: Callable[[float], float]) -> Cost:
    """Makes the `Cost` in weights, with biases and moving statistics, as `tfap.report` counts them.

    Args:
        model: The model without wrappers.
        liveness: Its `Liveness`.
        limit: Function of the model's own cost that returns the limit.
    """
    total = weight_count(model)
    return Cost(parts_of(model, liveness), None, total, limit(total))


def flops_cost(model: Model, liveness: Liveness, limit: Callable[[float], float]) -> Cost:
    """Makes the `Cost` in FLOPs of one sample, as `tfap.flops` counts them. Arguments as in `weight_cost`.

    Raises:
        ValueError: If the FLOPs depend on undefined dimensions.
    """
    by_layer, parts = layer_flops(model), parts_of(model, liveness)
    every = np.ones(liveness.channels.size, bool)
    weights: collections.Counter[str] = collections.Counter()
    for part in parts:
        weights[part.path] += part.of(every) * part.in_kernel
    each = {path: by_layer.get(path, 0) / count for path, count in weights.items() if count}
    total = sum(by_layer.values())
    return Cost(parts, each, total, limit(total))
