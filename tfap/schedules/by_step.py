"""Schedules that prune at training steps."""

import tensorflow as tf

from tfap import keras_compat
from tfap.schedules.base import ConstantSparsity, PolynomialDecay, PruningSchedule
from tfap.utils import checks


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
        if not 0 < checks.number("rate", rate) < 1:
            raise ValueError(f"rate must be in (0, 1): received {rate}.")
        for name in ("updates", "frequency", "begin_step"):
            checks.whole(name, getattr(self, name))

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
