"""Pruning schedules: when to prune, and to which sparsity.

They are subclasses of tfmot's `PruningSchedule`, so they also work in tfmot's `prune_low_magnitude`.
Steps count from 1: step n is over when the n-th batch of the first fit has been trained on.
"""

import numbers

import numpy as np
import tensorflow as tf

from tfap import checks, keras_compat, serialization

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


@keras_compat.register
class AccuracyIntervals(PruningSchedule):
    """Prunes at the end of an epoch in which a metric has passed the next threshold.

    The schedule of activation-based pruning (Ganguli and Chong, 2024, section 3): prune k of n, counted
    from 0, waits for `begin + k * (end - begin) / n`; its share of the final sparsity is proportional to
    `decay**k`, so the first is the largest. At most one prune an epoch. It needs `tfap.UpdatePruningStep`;
    tfmot's callback knows nothing of metrics.

    Args:
        final_sparsity: share of the prunable weights that is pruned after the last prune, in (0, 1). (The
            paper's percentage is of all kernels, the output layer's included, which it never prunes.)
        prunes: how many, at least 1; 5 or 10 in the paper.
        begin: threshold of the first prune.
        end: where the thresholds would arrive after the last; below `begin` for a metric that falls.
        decay: of the shares, in [0, 1]; 1 makes them equal, 0 asks for everything at once.
        metric: name of the logged metric: the training accuracy, or any other that fit logs, such as "loss"
            or "val_accuracy".

    Raises:
        ValueError: an argument outside its range; while training, a metric that is not logged.

    >>> schedule = AccuracyIntervals(0.8, prunes=2, begin=0.5, end=1.0)
    >>> schedule.thresholds, [round(sparsity, 4) for sparsity in schedule.sparsities]
    ([0.5, 0.75], [0.4444, 0.8])
    >>> schedule.on_epoch_end({"accuracy": 0.51}, updates=0) == schedule.sparsities[0]
    True
    """

    def __init__(self, final_sparsity, prunes=5, begin=0.80, end=0.98, decay=0.8, metric="accuracy"):
        if not 0 < checks.number("final_sparsity", final_sparsity) < 1:
            raise ValueError(f"final_sparsity must be in (0, 1): received {final_sparsity}.")
        checks.whole("prunes", prunes)
        if not 0 <= checks.number("decay", decay) <= 1:
            raise ValueError(f"decay must be in [0, 1]: received {decay}.")
        self.final_sparsity = float(final_sparsity)
        self.prunes = int(prunes)
        self.begin = checks.number("begin", begin)
        self.end = checks.number("end", end)
        self.decay = float(decay)
        self.metric = checks.text("metric", metric)

    @property
    def thresholds(self):
        """The metric's value for which each prune waits."""
        step = (self.end - self.begin) / self.prunes
        return [self.begin + k * step for k in range(self.prunes)]  # adding up would miss some by an ulp

    @property
    def sparsities(self):
        """After each prune."""
        shares = self.decay ** np.arange(self.prunes)
        return [float(share) for share in self.final_sparsity * np.cumsum(shares) / shares.sum()]

    def on_epoch_end(self, logs, updates):
        """The sparsity to prune to now, or None.

        Args:
            logs: of the epoch.
            updates: how many prunes there have been.
        """
        self.check_logs(logs)
        if updates >= self.prunes or not self._passes(logs[self.metric], self.thresholds[updates]):
            return None
        return self.sparsities[updates]

    def check_logs(self, logs):
        """Raises ValueError if the metric is not among the logs."""
        if self.metric not in logs:
            raise ValueError(
                f"AccuracyIntervals waits for the metric '{self.metric}', and fit logs "
                f"{', '.join(sorted(logs)) or 'none'}: name one of those as metric=, or add it in "
                'compile(metrics=["accuracy"]).'
            )

    def missing(self, updates, seen):
        """What to tell a user whose fit has ended before the last prune; None if none is missing.

        Args:
            updates: how many prunes there have been.
            seen: the metric in the epochs of the fit.
        """
        if updates >= self.prunes:
            return None
        came_to = f"{(min if self.end < self.begin else max)(seen):.4g}" if seen else "no such metric"
        return (
            f"{self.prunes - updates} of {self.prunes} prunes are missing: the next one waits for "
            f"{self.metric} = {self.thresholds[updates]:.4g}, and this fit came to {came_to}. Train "
            "for longer, or change `begin` and `end` of AccuracyIntervals."
        )

    def _passes(self, value, threshold):
        return value <= threshold if self.end < self.begin else value >= threshold

    def __call__(self, step):
        raise NotImplementedError(
            "AccuracyIntervals prunes by a metric at the end of an epoch, which only tfap's callback sees: "
            "wrap the model with tfap.prune and pass callbacks=[tfap.UpdatePruningStep()] to fit()."
        )

    def get_config(self):
        names = ("final_sparsity", "prunes", "begin", "end", "decay", "metric")
        return {
            "class_name": keras_compat.registered_name(type(self)),
            "config": {name: getattr(self, name) for name in names},
        }


def by_epochs(schedule):
    """True if the schedule decides at the ends of epochs, not by steps."""
    return hasattr(schedule, "on_epoch_end")


def is_over(schedule, step, updates):
    """True if a schedule has asked for its last update.

    Args:
        schedule: a `PruningSchedule`.
        step: training steps done.
        updates: mask updates made.

    Raises:
        ValueError: a schedule that does not tell its last step.
    """
    if by_epochs(schedule):
        return updates >= schedule.prunes
    end = getattr(schedule, "end_step", None)
    if end is not None and end < 0:  # for ever, at the same sparsity
        end = schedule.begin_step
    if end is None:
        raise ValueError(
            f"{type(schedule).__name__} does not tell when it is over: give it an attribute end_step, the "
            "step of its last update."
        )
    return step >= end


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
