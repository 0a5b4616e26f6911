"""Schedules that prune at the end of an epoch, when a metric reaches a threshold."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tfap import keras_compat
from tfap.schedules.base import PruningSchedule
from tfap.utils import checks


@keras_compat.register
class AccuracyIntervals(PruningSchedule):
    """Prunes at the end of an epoch in which a metric has reached the next threshold.

    Prune k of n, counted from 0, waits until the metric reaches `begin + k * (end - begin) / n`. It adds a
    part of the final sparsity that is proportional to `decay**k`, so the first prune is the largest. There
    is at most one prune per epoch.

    The schedule needs `tfap.UpdatePruningStep()`: tfmot's callback does not pass metrics to schedules.

    Args:
        final_sparsity: Float in (0, 1). Fraction of the prunable weights that is pruned after the last
            prune. The paper states the fraction of all kernels, including that of the output layer, which it
            never prunes.
        prunes: Integer >= 1. Number of prunes. The paper uses 5 and 10.
        begin: Float. Threshold of the first prune.
        end: Float. Threshold that would follow that of the last prune. Less than `begin` for a metric that
            decreases, such as a loss.
        decay: Float in [0, 1]. Ratio of the sparsity that a prune adds to what the previous one adds. 1
            makes all prunes equal. 0 reaches the final sparsity with the first prune.
        metric: String. Name of a metric in the logs of `fit()`, such as "accuracy", "loss" or "val_accuracy".

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range. During training, if the metric is not logged.

    Example:

    >>> schedule = AccuracyIntervals(0.8, prunes=2, begin=0.5, end=1.0)
    >>> schedule.thresholds, [round(sparsity, 4) for sparsity in schedule.sparsities]
    ([0.5, 0.75], [0.4444, 0.8])
    >>> schedule.on_epoch_end({"accuracy": 0.51}, updates=0) == schedule.sparsities[0]
    True

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048), section 3
    """

    def __init__(
        self,
        final_sparsity: float,
        prunes: int = 5,
        begin: float = 0.80,
        end: float = 0.98,
        decay: float = 0.8,
        metric: str = "accuracy",
    ) -> None:
        if not 0 < checks.number("final_sparsity", final_sparsity) < 1:
            raise ValueError(f"final_sparsity must be in (0, 1): received {final_sparsity}.")
        checks.integer("prunes", prunes)
        if not 0 <= checks.number("decay", decay) <= 1:
            raise ValueError(f"decay must be in [0, 1]: received {decay}.")
        self.final_sparsity = float(final_sparsity)
        self.prunes = int(prunes)
        self.begin = checks.number("begin", begin)
        self.end = checks.number("end", end)
        self.decay = float(decay)
        self.metric = checks.text("metric", metric)

    @property
    def thresholds(self) -> list[float]:
        """List of floats. The value of the metric that each prune waits for."""
        step = (self.end - self.begin) / self.prunes
        return [self.begin + k * step for k in range(self.prunes)]  # a running sum would be off by an ulp

    @property
    def sparsities(self) -> list[float]:
        """List of floats in (0, 1). The sparsity after each prune."""
        increments = self.decay ** np.arange(self.prunes)
        cumulative = self.final_sparsity * np.cumsum(increments) / increments.sum()
        return [float(sparsity) for sparsity in cumulative]

    def on_epoch_end(self, logs: Mapping[str, float], updates: int) -> float | None:
        """Decides whether to prune at the end of an epoch.

        Args:
            logs: Dict of metric name to value. The logs of the epoch.
            updates: Integer. Number of prunes done.

        Returns:
            The sparsity to prune to, or None to not prune.

        Raises:
            ValueError: If the metric is not in the logs.
        """
        self.check_logs(logs)
        if updates >= self.prunes or not self._reaches(logs[self.metric], self.thresholds[updates]):
            return None
        return self.sparsities[updates]

    def check_logs(self, logs: Mapping[str, float]) -> None:
        """Checks that the metric is logged.

        Args:
            logs: Dict of metric name to value.

        Raises:
            ValueError: If the metric is not in the logs.
        """
        if self.metric not in logs:
            raise ValueError(
                f"AccuracyIntervals needs the metric '{self.metric}', but fit() logs "
                f"{', '.join(sorted(logs)) or 'no metrics'}: pass one of those as metric=, or add it with "
                'compile(metrics=["accuracy"]).'
            )

    def missing(self, updates: int, seen: Sequence[float]) -> str | None:
        """Describes the prunes that a fit did not reach.

        Args:
            updates: Integer. Number of prunes done.
            seen: Sequence of floats. The metric after each epoch of the fit.

        Returns:
            A message for the user, or None if every prune was done.
        """
        if updates >= self.prunes:
            return None
        best = min if self._decreases else max
        reached = f"reached {best(seen):.4g}" if seen else "did not log it"
        return (
            f"{self.prunes - updates} of {self.prunes} prunes did not happen: the next one needs "
            f"{self.metric} {'<=' if self._decreases else '>='} {self.thresholds[updates]:.4g}, but this fit "
            f"{reached}. "
            "Train for longer, or change `begin` and `end` of AccuracyIntervals."
        )

    @property
    def _decreases(self):
        return self.end < self.begin

    def _reaches(self, value, threshold):
        return value <= threshold if self._decreases else value >= threshold

    def __call__(self, step: Any) -> NoReturn:
        """Raises a NotImplementedError, because the schedule does not prune at steps."""
        raise NotImplementedError(
            "AccuracyIntervals prunes by a metric at the end of an epoch, which only tfap's callback passes "
            "on: wrap the model with tfap.prune and pass callbacks=[tfap.UpdatePruningStep()] to fit()."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the arguments, in the form of tfmot's schedules."""
        names = ("final_sparsity", "prunes", "begin", "end", "decay", "metric")
        return {
            "class_name": keras_compat.registered_name(type(self)),
            "config": {name: getattr(self, name) for name in names},
        }
