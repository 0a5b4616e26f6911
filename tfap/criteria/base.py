"""The base class of criteria, which score the weights of a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.graph.kernel import Kernel
from tfap.keras_compat.registry import deserialize


class Criterion:
    """Scores the weights of a kernel; those with the lowest scores are pruned first.

    This is the base class. A custom criterion overrides `scores` and, if it has settings, `get_config`.

    Attributes:
        counts: Whose activations tfap counts for it: "output" for the neurons that the weights feed, "input"
            for those they read, None for none.
        threshold: A float. An activation above it counts as firing.
        statistic: "count" to count how often neurons fire, "sum" to sum their activations, "square" to sum
            the squares of all activations.
        decay: The fraction of the counts that every mask update keeps, in [0, 1].
        metric: The name of the logged metric by which the counts of an epoch are multiplied, or None.
        granularity: The default granularity, "weight" or "neuron".
        granularities: A tuple of the granularities that it supports. None means all.
        supports_blocks: Whether `block_size` may pool its scores.
        needs: The names of the fields of `tfap.Kernel` that it reads and that are otherwise not filled in:
            "gradients", "input_norms", "loss_changes", "neuron_norms", "previous", "removal_errors",
            "squared_gradients", "updates".

    Example:

    >>> class RandomScores(Criterion):
    ...     def scores(self, kernel):
    ...         return np.random.default_rng(0).random(kernel.weights.shape)
    """

    counts: Any = None
    threshold: float = 0.0
    statistic: str = "count"
    decay: float = 1.0
    metric: str | None = None
    granularity: str = "weight"
    granularities: Any = None
    supports_blocks: Any = True
    needs: Any = frozenset()

    @property
    def forgets(self) -> bool:
        """Whether it reads decayed or weighted counts instead of all counts."""
        return self.decay != 1.0 or self.metric is not None

    def scores(self, kernel: Kernel) -> np.ndarray:
        """Scores the weights of one kernel.

        Args:
            kernel: A `tfap.Kernel`.

        Returns:
            A finite array of the shape of `kernel.weights`. For `scope="global"`, scores must be comparable
            between layers.

        Raises:
            NotImplementedError: If the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scores(kernel).")

    def new_masks(self, scored: Sequence[Any], sparsity: float, pattern: Any) -> list[np.ndarray]:
        """Chooses the weights that an update prunes. Override it to choose by more than `scores`.

        Args:
            scored: Kernels that are ranked together, in layer order. Each has a `kernel`, a `tfap.Kernel`,
                and its `scores`.
            sparsity: A float. The fraction that is pruned afterwards, weights pruned before included.
            pattern: The shape that is pruned. `pattern.new_masks(scored, sparsity)` prunes the lowest scores.

        Returns:
            One uint8 mask per kernel, 1 where a weight is kept. A pruned weight must stay pruned.
        """
        return pattern.new_masks(scored, sparsity)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Criterion:
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


_BUILT_IN: dict[str, type[Criterion]] = {}


def built_in(cls):
    """Registers a criterion of tfap with Keras 3 and tf_keras, and by its name in snake case."""
    _BUILT_IN[keras_compat.snake_case(cls.__name__)] = keras_compat.register(cls)
    return cls


def get(criterion: Criterion | str | Mapping[str, Any]) -> Criterion:
    """Gets a criterion from an object, a name or a saved config, as Keras's `get` functions do.

    Args:
        criterion: A `tfap.Criterion`, its name such as "magnitude", or its saved config.

    Returns:
        The `tfap.Criterion`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of the three.

    Example:

    >>> get("magnitude")
    Magnitude()
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, dict):
        return deserialize(criterion, {})
    if isinstance(criterion, str):
        if criterion not in _BUILT_IN:
            raise ValueError(f"Unknown criterion '{criterion}'. Known: {', '.join(sorted(_BUILT_IN))}.")
        return _BUILT_IN[criterion]()
    raise TypeError(
        "criterion must be a tfap.Criterion, such as tfap.ActivationCount(), or the name of one: "
        f"received {criterion!r} of type {type(criterion).__name__}."
    )
