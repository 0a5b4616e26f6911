"""tfmot's schedules in NumPy, with the same names, arguments, values and configs."""

import abc
from typing import Any

import numpy as np


class PruningSchedule(abc.ABC):
    """The base class of schedules where tfmot is not installed, with the methods of tfmot's.

    A schedule is called with a training step, or an array of them, and returns whether to prune at it, and
    the sparsity.
    """

    @abc.abstractmethod
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns whether to prune at a step, and the sparsity."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the arguments of the constructor."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """Creates a schedule from the arguments in its config."""
        return cls(**config)

    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        in_range = (step >= begin_step) & ((step <= end_step) | (end_step < 0))
        return in_range & ((step - begin_step) % frequency == 0)

    def _validate_step(self, begin_step, end_step, frequency, allow_negative_1):
        if begin_step < 0:
            raise ValueError(f"begin_step must be >= 0: received {begin_step}.")
        if not allow_negative_1 and end_step == -1:
            raise ValueError("end_step must be >= 0: received -1.")
        if end_step != -1 and end_step < max(0, begin_step):
            raise ValueError(
                f"end_step must be at least begin_step, {begin_step}, or -1: received {end_step}."
            )
        if frequency <= 0:
            raise ValueError(f"frequency must be > 0: received {frequency}.")

    def _validate_sparsity(self, sparsity, variable_name):
        if not 0 <= sparsity < 1:
            raise ValueError(f"{variable_name} must be in [0, 1): received {sparsity}.")

    def _config_of(self, *names):
        return {
            "class_name": type(self).__name__,
            "config": {name: getattr(self, name) for name in names},
        }


class ConstantSparsity(PruningSchedule):
    """Prunes to one sparsity at every update.

    Args:
        target_sparsity: Float in [0, 1).
        begin_step: Integer >= 0. Training step of the first update.
        end_step: Integer >= `begin_step`. Training step of the last update. -1 for no end.
        frequency: Integer >= 1. Number of training steps between two updates.
    """

    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(target_sparsity, "target_sparsity")

    def __call__(self, step: Any) -> tuple[Any, Any]:
        should_prune = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return should_prune, np.float32(self.target_sparsity)

    def get_config(self) -> dict[str, Any]:
        return self._config_of("target_sparsity", "begin_step", "end_step", "frequency")


class PolynomialDecay(PruningSchedule):
    """Prunes from an initial sparsity to a final one, along a polynomial.

    Args:
        initial_sparsity: Float in [0, 1).
        final_sparsity: Float in [0, 1).
        begin_step: Integer >= 0. Training step of the first update.
        end_step: Integer >= `begin_step`. Training step of the last update.
        power: Number. Exponent of the polynomial.
        frequency: Integer >= 1. Number of training steps between two updates.

    References:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.power = power
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, False)
        self._validate_sparsity(initial_sparsity, "initial_sparsity")
        self._validate_sparsity(final_sparsity, "final_sparsity")

    def __call__(self, step: Any) -> tuple[Any, Any]:
        one = np.float32(1)  # tfmot computes in float32
        steps = np.float32(self.end_step - self.begin_step)
        with np.errstate(divide="ignore", invalid="ignore"):
            passed = np.asarray(step - self.begin_step).astype(np.float32) / steps
        left = one - np.minimum(one, np.maximum(np.float32(0), passed))
        change = np.float32(self.initial_sparsity - self.final_sparsity)
        power = (left.astype(np.float64) ** self.power).astype(np.float32)  # NumPy's in float32 is less exact
        sparsity = change * power + np.float32(self.final_sparsity)
        should_prune = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return should_prune, sparsity

    def get_config(self) -> dict[str, Any]:
        return self._config_of(
            "initial_sparsity", "final_sparsity", "power", "begin_step", "end_step", "frequency"
        )
