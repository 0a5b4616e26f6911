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
    PolynomialDecay takes as long as a small net's training step. A schedule of the user's that takes single
    steps only, or knows no steps that training never reaches, is asked when a step has been reached.
    """

    _BLOCK = 4096

    def __init__(self, schedule):
        self._schedule = schedule
        self._start = None
        self._block = None  # (due steps, their sparsities) from _start on; None if steps must be asked for

    def next_step(self, after):
        """The first due step > `after`, or a later step from which to ask again."""
        self._load(after + 1)
        if self._block is None:
            return after + 1
        later = self._block[0][self._block[0] > after]
        return int(later[0]) if len(later) else self._start + self._BLOCK

    def sparsity_due(self, after, until):
        """Sparsity of the last step due in (after, until], or None. Several steps may have passed.

        Raises:
            TypeError: the schedule gives something else than whether to prune and a sparsity.
            ValueError: the sparsity is outside [0, 1).
        """
        step = until
        while step > after:
            self._load(step)
            if self._block is None:
                due, sparsity = _asked(self._schedule, step)
                if due:
                    return self._checked(sparsity, step)
                step -= 1
            else:
                steps, sparsities = self._block
                passed = np.flatnonzero((steps > after) & (steps <= until))
                if len(passed):
                    return self._checked(float(sparsities[passed[-1]]), steps[passed[-1]])
                step = self._start - 1
        return None

    def _checked(self, sparsity, step):
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"{type(self._schedule).__name__} asks for a sparsity outside [0, 1) after step {step}: "
                f"{sparsity}."
            )
        return sparsity

    def _load(self, step):
        start = step - step % self._BLOCK
        if start != self._start:
            self._start = start
            self._block = _evaluated(self._schedule, np.arange(max(1, start), start + self._BLOCK))


def _evaluated(schedule, steps):
    """`(due steps, their sparsities)`, or None for a schedule that does not take them all at once."""
    try:
        due, sparsity = (np.asarray(part) for part in schedule(tf.constant(steps, tf.int64)))
        if due.shape != steps.shape or sparsity.shape not in ((), steps.shape):
            return None
        sparsity = np.broadcast_to(sparsity, steps.shape)
        found, others = np.flatnonzero(due), np.flatnonzero(~due)
        # It may have mistaken the steps for something else: single ones must give the same.
        for at in {0, len(steps) - 1, *found[:1], *found[-1:], *others[:1], *others[-1:]}:
            asked, expected = _asked(schedule, steps[at])
            if asked != due[at] or not np.isclose(sparsity[at], expected, rtol=1e-6, atol=1e-7):
                return None
    except Exception:  # the schedule is the user's code; what is wrong shows when a step is asked for
        return None
    return steps[due], sparsity[due]


def _asked(schedule, step):
    """`(due, sparsity)` of one step."""
    answer = schedule(tf.constant(step, tf.int64))
    try:
        due, sparsity = answer
        return bool(due), float(sparsity)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{type(schedule).__name__}, called on step {step}, must give two things: whether to prune, and "
            f"the sparsity. It gave {answer!r}."
        ) from error
