"""What a pruning wrapper remembers of its counts, for criteria that forget or weigh the epochs."""

import numpy as np

from tfap.activations import ActivationCounts


class CountMemory:
    """A mixin for wrappers that have a `criterion`, `counted()` and `_add_state`.

    The counters go on for ever and stay exact. What the criterion sees is
    `fade * remembered + epoch_weight * (counters - remembered_until)`, of the counts and of how many were
    seen. Old counts fade only once there are new ones, so that there is always something to rank by.
    """

    remembers = False

    def _add_memory(self, neurons):
        self.remembers = True
        self._remembered = self._add_state("remembered", (neurons + 1,), "float64")
        self._until = self._add_state("remembered_until", (neurons + 1,), "float64")
        self._epoch_weight = self._add_state("epoch_weight", (), "float64", "ones")
        self._fade = self._add_state("fade", (), "float64", "ones")

    def _memory_state(self):
        if not self.remembers:
            return {}
        return {
            "remembered": self._remembered,
            "remembered_until": self._until,
            "epoch_weight": self._epoch_weight,
            "fade": self._fade,
        }

    def remembered(self):
        """`ActivationCounts` as the criterion sees them, float64 where it forgets; None if nothing counts."""
        counted = self.counted()
        if counted is None or not self.remembers:
            return counted
        values = self._settled(_row(counted))
        return ActivationCounts(values[:-1], float(values[-1]))

    def weigh_epoch(self, logs):
        """Multiplies the counts of the epoch that is over by its metric, if the criterion wants that.

        Raises:
            ValueError: the metric is not among the logs.
        """
        metric = self.criterion.metric
        if metric is None:
            return
        if metric not in logs:
            raise ValueError(
                f"{self.criterion} weighs epochs by the metric '{metric}', and fit logs "
                f"{', '.join(sorted(logs)) or 'none'}."
            )
        self._epoch_weight.assign(logs[metric])
        self._settle()

    def forget(self, decay):
        """Keeps a share of what has been counted so far, from the next count on."""
        self._settle()
        self._fade.assign(decay)

    def carry_memory(self, other, neurons):
        """Takes over what another wrapper remembers of some of its neurons, a bool array."""
        kept = np.append(neurons, True)
        self._epoch_weight.assign(other._epoch_weight.numpy())
        self._remembered.assign(other._remembered.numpy()[kept])
        self._until.assign(other._until.numpy()[kept])
        self._fade.assign(other._fade.numpy())

    def _settle(self):
        """Adds what is new to what is remembered, and lets that fade if it is to."""
        now = _row(self.counted())
        if now[-1] > self._until.numpy()[-1]:
            self._remembered.assign(self._settled(now))
            self._until.assign(now)
            self._fade.assign(1.0)

    def _settled(self, now):
        new = now - self._until.numpy()
        fade = self._fade.numpy() if new[-1] else 1.0
        return fade * self._remembered.numpy() + self._epoch_weight.numpy() * new


def _row(counted):
    """The counts and, at the end, how many were seen."""
    return np.append(counted.counts, counted.seen).astype(np.float64)
