"""Pruning schedules: at which steps to prune, and to which sparsity.

They are subclasses of tfmot's `PruningSchedule`, so they also work in tfmot's `prune_low_magnitude`.
Steps count from 1: step n is over when the n-th batch of the first fit has been trained on.
"""

import numbers

import numpy as np
import tensorflow as tf

from tfap import keras_compat, serialization

_tfmot_sparsity = keras_compat.tfmot.sparsity.keras
PruningSchedule = _tfmot_sparsity.PruningSchedule
ConstantSparsity = _tfmot_sparsity.ConstantSparsity
PolynomialDecay = _tfmot_sparsity.PolynomialDecay

_TFMOT_CLASSES = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}


@keras_compat.register
class IterativeSparsity(PruningSchedule):
    """Prunes the same share of what is left, again and again.

    After k updates the sparsity is `1 - (1 - rate)**k`: the share left is multiplied by `1 - rate` each
    time, as in iterative magnitude pruning and in AP (Liu et al., 2023, section 3).

    Args:
        rate: share of the weights still alive that each update prunes, in (0, 1).
        updates: number of updates, at least 1.
        frequency: steps between two updates, at least 1.
        begin_step: step of the first update, at least 1; None means `frequency`.

    >>> schedule = IterativeSparsity(0.5, updates=3, frequency=100)
    >>> [float(schedule(step)[1]) for step in (100, 200, 300)]
    [0.5, 0.75, 0.875]
    """

    def __init__(self, rate, updates, frequency, begin_step=None):
        self.rate = rate
        self.updates = updates
        self.frequency = frequency
        self.begin_step = frequency if begin_step is None else begin_step
        if not 0 < rate < 1:
            raise ValueError(f"rate must be in (0, 1): received {rate}.")
        for name in ("updates", "frequency", "begin_step"):
            if not isinstance(getattr(self, name), numbers.Integral) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number >= 1: received {getattr(self, name)}.")

    @property
    def end_step(self):
        """Step of the last update."""
        return self.begin_step + (self.updates - 1) * self.frequency

    def __call__(self, step):
        step = tf.cast(step, tf.int64)
        should_prune = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        updates = tf.clip_by_value((step - self.begin_step) // self.frequency + 1, 0, self.updates)
        left = tf.pow(tf.constant(1.0 - self.rate, tf.float64), tf.cast(updates, tf.float64))
        return should_prune, tf.cast(1.0 - left, tf.float32)

    def get_config(self):
        return {
            "class_name": keras_compat.registered_name(type(self)),
            "config": {
                "rate": self.rate,
                "updates": self.updates,
                "frequency": self.frequency,
                "begin_step": self.begin_step,
            },
        }


def get(schedule):
    """Checks a schedule, or reads a saved one; a float stays one.

    Raises:
        ValueError: a sparsity outside [0, 1).
        TypeError: neither a schedule nor a number.
    """
    if isinstance(schedule, dict):
        return serialization.deserialize(schedule, _TFMOT_CLASSES)
    if isinstance(schedule, PruningSchedule):
        return schedule
    if not isinstance(schedule, numbers.Real) or isinstance(schedule, bool):
        raise TypeError(
            "pruning_schedule must be a PruningSchedule, such as tfap.PolynomialDecay(...), or a float, "
            f"the final sparsity: received {schedule!r} of type {type(schedule).__name__}."
        )
    if not 0 <= schedule < 1:
        raise ValueError(
            f"The sparsity must be in [0, 1): received {schedule}. Write 0.9 to prune 90% of the weights."
        )
    return float(schedule)


def serialize(schedule):
    return schedule if isinstance(schedule, float) else serialization.serialize(schedule)


def over_fit(final_sparsity, steps, after=0):
    """The schedule that a plain float means: cubic decay between 10% and 70% of a fit.

    About 30 updates, fewer in very short fits; the last one falls on the end step exactly.

    Args:
        final_sparsity: in [0, 1).
        steps: length of the fit.
        after: training steps done before it.

    >>> schedule = over_fit(0.9, steps=1000)
    >>> schedule.begin_step, schedule.end_step, schedule.frequency
    (100, 700, 20)
    """
    begin = max(1, round(0.1 * steps))
    end = max(begin, round(0.7 * steps))
    frequency = max(1, (end - begin) // 30)
    begin = end - (end - begin) // frequency * frequency
    if begin == end:  # too short for a decay
        return ConstantSparsity(final_sparsity, after + begin, end_step=after + end, frequency=1)
    return PolynomialDecay(0.0, final_sparsity, after + begin, after + end, frequency=frequency)


class Rescaled:
    """A schedule for what is left of a model that has been made smaller.

    Args:
        schedule: callable from step to (due, sparsity), of the model as it was.
        smaller: how many times smaller the model is now.

    >>> halved = Rescaled(ConstantSparsity(0.75, 1), smaller=2.0)
    >>> float(halved(1)[1])  # a quarter of the whole is half of the half
    0.5
    """

    def __init__(self, schedule, smaller):
        self._schedule = schedule
        self._smaller = smaller

    def __call__(self, step):
        due, sparsity = self._schedule(step)
        return due, tf.maximum(0.0, 1.0 - (1.0 - sparsity) * self._smaller)


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
