"""Evaluation of schedules on the host: the steps of the updates, and their sparsities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfap.schedules.base import evaluate

if TYPE_CHECKING:
    from tfap.schedules.base import PruningSchedule


class Timetable:
    """Finds the steps at which a schedule prunes, and their sparsities.

    It evaluates the schedule once for a block of steps instead of once per step, because one eager call of
    tfmot's `PolynomialDecay` takes as long as a training step of a small model. If the schedule does not
    support arrays of steps, it evaluates single steps, and only those that training reaches.

    Args:
        schedule: A `PruningSchedule` that decides by step.
    """

    _BLOCK = 4096

    def __init__(self, schedule: PruningSchedule) -> None:
        self._schedule = schedule
        self._start: int | None = None
        # (steps of the updates, their sparsities) from _start on; None if the schedule takes single steps.
        self._block: tuple[np.ndarray, np.ndarray] | None = None

    def next_step(self, after: int) -> int:
        """Finds the step of the next update.

        Args:
            after: Integer. A training step.

        Returns:
            The first step > `after` with an update, or an earlier one at which to call this method again.
        """
        start = self._load(after + 1)
        if self._block is None:
            return after + 1
        steps, _ = self._block
        later = steps[steps > after]
        return int(later[0]) if len(later) else start + self._BLOCK

    def sparsity_due(self, after: int, until: int) -> float | None:
        """Finds the sparsity of the last update in an interval of steps, which may contain several.

        Args:
            after: Integer. Training step before the interval.
            until: Integer. Last training step of the interval.

        Returns:
            The sparsity, or None if there is no update.

        Raises:
            TypeError: If the schedule does not return two values: whether to prune, and the sparsity.
            ValueError: If the sparsity is not in [0, 1).
        """
        step = until
        while step > after:
            start = self._load(step)
            if self._block is None:
                should_prune, sparsity = _evaluate_step(self._schedule, step)
                if should_prune:
                    return self._checked(sparsity, step)
                step -= 1
            else:
                steps, sparsities = self._block
                passed = np.flatnonzero((steps > after) & (steps <= until))
                if len(passed):
                    return self._checked(float(sparsities[passed[-1]]), steps[passed[-1]])
                step = start - 1
        return None

    def _checked(self, sparsity, step):
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"{type(self._schedule).__name__} must return a sparsity in [0, 1): received {sparsity} for "
                f"step {step}."
            )
        return sparsity

    def _load(self, step):
        """Evaluates the block that contains a step, and returns the first step of the block."""
        start = step - step % self._BLOCK
        if start != self._start:
            self._start = start
            self._block = _evaluate_block(self._schedule, np.arange(max(1, start), start + self._BLOCK))
        return start


def _evaluate_block(schedule, steps):
    """Returns the steps of the updates and their sparsities; None if the schedule takes single steps only."""
    try:
        should_prune, sparsity = (np.asarray(part) for part in evaluate(schedule, steps))
        if should_prune.shape != steps.shape or sparsity.shape not in ((), steps.shape):
            return None
        sparsity = np.broadcast_to(sparsity, steps.shape)
        due, others = np.flatnonzero(should_prune), np.flatnonzero(~should_prune)
        # The schedule may have misread the array of steps: compare with some single steps.
        for index in {0, len(steps) - 1, *due[:1], *due[-1:], *others[:1], *others[-1:]}:
            step_is_due, expected = _evaluate_step(schedule, steps[index])
            if step_is_due != should_prune[index]:
                return None
            if not np.isclose(sparsity[index], expected, rtol=1e-6, atol=1e-7):
                return None
    except Exception:  # of the user's schedule; a real fault is raised again for a single step
        return None
    return steps[should_prune], sparsity[should_prune]


def _evaluate_step(schedule, step):
    """Returns whether to prune at a step, and the sparsity."""
    decision = evaluate(schedule, step)
    try:
        should_prune, sparsity = decision
        return bool(should_prune), float(sparsity)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{type(schedule).__name__} must return two values, whether to prune and the sparsity: received "
            f"{decision!r} for step {step}."
        ) from error
