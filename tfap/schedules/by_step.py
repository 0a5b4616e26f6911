"""Schedules that prune at training steps."""

from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.schedules import own
from tfap.schedules.base import PruningSchedule
from tfap.utils import checks


@keras_compat.register
class IterativeSparsity(PruningSchedule):
    """Prunes a fixed fraction of the kept weights at each update.

    After k updates the sparsity is `1 - (1 - rate)**k`.

    Args:
        rate: Float in (0, 1). Fraction of the kept weights that each update prunes.
        updates: Integer >= 1. Number of updates.
        frequency: Integer >= 1. Number of training steps between two updates.
        begin_step: Integer >= 1. Training step of the first update, counted from 1. Defaults to `frequency`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = IterativeSparsity(0.5, updates=3, frequency=100)
    >>> [float(schedule(step)[1]) for step in (100, 200, 300)]
    [0.5, 0.75, 0.875]

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2212.06145), section 3
    """

    def __init__(self, rate: float, updates: int, frequency: int, begin_step: int | None = None) -> None:
        self.rate = rate
        self.updates = updates
        self.frequency = frequency
        self.begin_step = frequency if begin_step is None else begin_step
        if not 0 < checks.number("rate", rate) < 1:
            raise ValueError(f"rate must be in (0, 1): received {rate}.")
        for name in ("updates", "frequency", "begin_step"):
            checks.integer(name, getattr(self, name))

    @property
    def end_step(self) -> int:
        """Training step of the last update."""
        return self.begin_step + (self.updates - 1) * self.frequency

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Computes whether to prune at a step, and the sparsity.

        Args:
            step: Integer, or an integer tensor of any shape. Training steps, counted from 1.

        Returns:
            Tuple of two tensors of the shape of `step`: a boolean one, whether to prune, and a float32 one,
            the sparsity in [0, 1). They are NumPy arrays where tfmot is not installed.
        """
        functions = np if isinstance(self, own.PruningSchedule) else tf.experimental.numpy
        step = functions.asarray(step, np.int64)
        should_prune = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        updates = functions.clip((step - self.begin_step) // self.frequency + 1, 0, self.updates)
        kept = functions.power(np.float64(1.0 - self.rate), functions.asarray(updates, np.float64))
        return should_prune, functions.asarray(1.0 - kept, np.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the arguments, in the form of tfmot's schedules."""
        return {
            "class_name": keras_compat.registered_name(type(self)),
            "config": {
                "rate": self.rate,
                "updates": self.updates,
                "frequency": self.frequency,
                "begin_step": self.begin_step,
            },
        }
