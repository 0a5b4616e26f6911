"""How the strength of a regularizer changes with the training step."""

import math
from typing import Any

import numpy as np

from tfap.schedules import base as schedules
from tfap.utils import checks


class Strength:
    """A strength that changes from step to step.

    Args:
        strength: Float >= 0, or a `PruningSchedule`, whose values at a step are the strengths.
        begin_step: Integer >= 0. The strength is 0 up to this step.
        end_step: Integer > `begin_step`. The step at which the last strength is reached. None is the end of
            the fit.
        peak: Float in (0, 1). If given, the strength is largest at this fraction of the way and 0 at its end,
            as in one cycle of a learning rate. None grows until the end.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of its range, or the schedule decides by epochs.
    """

    def __init__(
        self, strength: Any, begin_step: int = 0, end_step: int | None = None, peak: float | None = None
    ) -> None:
        self.schedule = strength if schedules.is_schedule(strength) else None
        if self.schedule is None:
            self.largest = checks.number("strength", strength)
            if self.largest < 0:
                raise ValueError(f"strength must be a number >= 0, or a schedule: received {strength}.")
        elif schedules.by_epochs(strength):
            raise ValueError(
                f"strength must be a number, or a schedule by step such as tfap.PolynomialDecay(...): "
                f"received {type(strength).__name__}, which decides at the end of epochs."
            )
        self.begin_step = checks.integer("begin_step", begin_step, least=0)
        self.end_step = end_step
        if end_step is not None and checks.integer("end_step", end_step) <= self.begin_step:
            raise ValueError(
                f"end_step must be greater than begin_step, {self.begin_step}: received {end_step}."
            )
        self.peak = None if peak is None else checks.number("peak", peak)
        if self.peak is not None and not 0 < self.peak < 1:
            raise ValueError(f"peak must be between 0 and 1: received {peak}.")

    @property
    def needs_length(self) -> bool:
        """Whether the length of the fit must be known."""
        return self.schedule is None and self.end_step is None

    def at(self, step: int, last_step: int | None = None) -> float:
        """Returns the strength after a training step.

        Args:
            step: Integer. The training step, from 0.
            last_step: Integer. The last step of the fit, if `needs_length`.
        """
        if self.schedule is not None:
            return float(np.asarray(schedules.evaluate(self.schedule, step)[1]))
        end = self.end_step if self.end_step is not None else max(last_step or 0, self.begin_step + 1)
        way = min(max((step - self.begin_step) / (end - self.begin_step), 0.0), 1.0)
        if self.peak is None:
            return self.largest * way
        if way <= self.peak:
            return self.largest * way / self.peak
        return self.largest * (1 + math.cos(math.pi * (way - self.peak) / (1 - self.peak))) / 2
