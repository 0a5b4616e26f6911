"""What a pruning wrapper keeps between updates: earlier counts and earlier weights."""

import dataclasses

import numpy as np

from tfap.keras_compat.lazy import tensorflow as tf
from tfap.utils import checks


class CountMemory:
    """Decays and weights activation counts, for wrappers with `criterion`, `counted()` and `_add_state`.

    The counters themselves are never reset and stay exact. The criterion reads
    `fade * remembered + epoch_weight * (counters - remembered_until)`, of the counts and of the number of
    activations. Old counts decay only once there are new ones, so that there is always something to rank by.
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
        """Returns the `ActivationCounts` for the criterion, float64 if they decay; None if nothing counts."""
        counted = self.counted()
        if counted is None or not self.remembers:
            return counted
        values = self._settled(_row(counted))
        return dataclasses.replace(counted, counts=values[:-1], seen=float(values[-1]))

    def weigh_epoch(self, logs):
        """Multiplies the counts of the last epoch by its metric, if the criterion has one.

        Raises:
            TypeError: If the metric is not a number.
            ValueError: If the metric is not in the logs, or not finite.
        """
        metric = self.criterion.metric
        if metric is None:
            return
        if metric not in logs:
            raise ValueError(
                f"{self.criterion} weighs epochs by the metric '{metric}', and fit logs "
                f"{', '.join(sorted(logs)) or 'none'}."
            )
        self._epoch_weight.assign(checks.number(f"The metric '{metric}'", logs[metric]))
        self._settle()

    def forget(self, decay):
        """Keeps a fraction of the counts so far, from the next count on."""
        self._settle()
        self._fade.assign(decay)

    def carry_memory(self, other, neurons):
        """Copies what another wrapper remembers of some of its neurons, a bool array."""
        kept = np.append(neurons, True)
        self._epoch_weight.assign(other._epoch_weight.numpy())
        self._remembered.assign(other._remembered.numpy()[kept])
        self._until.assign(other._until.numpy()[kept])
        self._fade.assign(other._fade.numpy())

    def _settle(self):
        """Adds the new counts to the remembered ones, which then decay."""
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
    """Returns the counts and, at the end, the number of activations."""
    return np.append(counted.counts, counted.seen).astype(np.float64)


class PreviousWeights:
    """Keeps the weights from which AP counts movement, for wrappers with `kernel_and_mask()`.

    State: `previous`, each kernel when the masks last changed; NaN until `note_weights` is called.
    """

    keeps_previous = False

    def _add_previous(self):
        self.keeps_previous = True
        self._previous = {
            spec.name: self._add_state(
                f"{spec.name.replace('.', '_')}_previous", kernel.shape, "float32", _unknown
            )
            for spec, kernel, _ in self.kernel_and_mask()
        }

    def _previous_state(self):
        if not self.keeps_previous:
            return {}
        return {f"{name}_previous": variable for name, variable in self._previous.items()}

    def note_weights(self):
        """Counts movement from the current weights: called after a mask update, `prune()` or a rewind."""
        if self.keeps_previous:
            for spec, kernel, mask in self.kernel_and_mask():
                self._previous[spec.name].assign(kernel.numpy() * mask.numpy())

    @property
    def previous_unknown(self):
        """True until `note_weights` has been called for the first time."""
        return self.keeps_previous and any(
            tf.math.is_nan(tf.reshape(variable, [-1])[0]) for variable in self._previous.values()
        )

    def previous(self, spec):
        """Returns the weights from which movement counts; the current ones if none were noted."""
        now = next(kernel for own, kernel, _ in self.kernel_and_mask() if own.name == spec.name)
        return (now if self.previous_unknown else self._previous[spec.name]).numpy()


def _unknown(shape, dtype=None):
    return tf.fill(shape, tf.constant(float("nan"), dtype or "float32"))
