"""Schedules that prune at the end of an epoch, when a metric passes a threshold."""

import numpy as np

from tfap import keras_compat
from tfap.schedules.base import PruningSchedule
from tfap.utils import checks


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
