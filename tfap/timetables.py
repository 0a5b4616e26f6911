"""Schedules read on the host: which steps are due, and their sparsities."""

import numpy as np
import tensorflow as tf


class Rescaled:
    """A schedule for what is left of a model that has been made smaller; all else is the schedule's own.

    Args:
        schedule: callable from step to (due, sparsity), of the model as it was.
        smaller: how many times smaller the model is now.

    >>> from tfap.schedules import ConstantSparsity
    >>> halved = Rescaled(ConstantSparsity(0.75, 1), smaller=2.0)
    >>> float(halved(1)[1])  # a quarter of the whole is half of the half
    0.5
    """

    def __init__(self, schedule, smaller):
        self._schedule = schedule
        self._smaller = smaller

    def __call__(self, step):
        due, sparsity = self._schedule(step)
        return due, tf.maximum(0.0, self._of_what_is_left(sparsity))

    def _of_what_is_left(self, sparsity):
        return 1.0 - (1.0 - sparsity) * self._smaller

    def __getattr__(self, name):
        if name.startswith("_"):  # a copy asks before there is a schedule
            raise AttributeError(name)
        return getattr(self._schedule, name)


class RescaledIntervals(Rescaled):
    """The same for a schedule that prunes at the ends of epochs."""

    def on_epoch_end(self, logs, updates):
        sparsity = self._schedule.on_epoch_end(logs, updates)
        return None if sparsity is None else max(0.0, self._of_what_is_left(sparsity))


class Timetable:
    """A schedule read on the host: which steps are due, and their sparsities.

    The schedule is evaluated once for a block of steps, not once a step: one eager call of tfmot's
    PolynomialDecay takes as long as a small net's training step.
    """

    _BLOCK = 4096

    def __init__(self, schedule):
        self._schedule = schedule
        self._start = None
        self._due = self._sparsity = None

    def next_step(self, after):
        """The first due step > `after`, or a later step from which to ask again."""
        self._load(after + 1)
        later = self._due[self._due > after]
        return int(later[0]) if len(later) else self._start + self._BLOCK

    def sparsity_due(self, after, until):
        """Sparsity of the last step due in (after, until], or None. Several steps may have passed."""
        step = until
        while step > after:
            self._load(step)
            passed = np.flatnonzero((self._due > after) & (self._due <= until))
            if len(passed):
                return float(self._sparsity[passed[-1]])
            step = self._start - 1
        return None

    def _load(self, step):
        start = step - step % self._BLOCK
        if start == self._start:
            return
        steps = np.arange(start, start + self._BLOCK)
        due, sparsity = self._evaluate(steps)
        due[steps < 1] = False
        self._start, self._due, self._sparsity = start, steps[due], sparsity[due]
        if not np.all((self._sparsity >= 0) & (self._sparsity < 1)):
            raise ValueError(
                f"{type(self._schedule).__name__} asks for a sparsity outside [0, 1): {self._sparsity}."
            )

    def _evaluate(self, steps):
        try:
            due, sparsity = (np.asarray(part) for part in self._schedule(tf.constant(steps, tf.int64)))
            if due.shape in ((), steps.shape) and sparsity.shape in ((), steps.shape):
                return np.broadcast_to(due, steps.shape).copy(), np.broadcast_to(sparsity, steps.shape)
        except (ValueError, TypeError, tf.errors.OpError):
            pass  # a schedule of the user's that takes one step at a time
        each = [self._schedule(tf.constant(step, tf.int64)) for step in steps]
        due, sparsity = zip(*[(bool(due), float(sparsity)) for due, sparsity in each])
        return np.array(due), np.array(sparsity, np.float32)
