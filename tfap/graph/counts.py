"""Activation counts: how often each neuron fires."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationCounts:
    """Holds how often each neuron of a layer fired.

    A ReLU neuron is dead on an input if it outputs 0. The dead-neuron rates describe a model only if its
    weights were the same for all inputs, as with `tfap.measure_activations`. Counts of a training run mix
    different weights: a neuron that died late has fired before.

    Attributes:
        counts: Integer array, shape `(neurons,)`. The number of activations above the threshold, per neuron.
        seen: Integer. The number of activations per neuron: samples x positions x calls. A Dense layer on
            `(batch, features)` has one position, a convolution one per output pixel. If each position of a
            channel counts as a neuron, `seen` is samples x calls.
        threshold: Float. A neuron fires if its activation > `threshold`. A ReLU neuron that does not fire is
            dead if this is 0. Otherwise the dead-neuron rates are those of activations <= `threshold`.

    Example:

    >>> import numpy as np, tfap
    >>> counts = tfap.ActivationCounts(np.array([8, 2, 0, 0]), seen=8)
    >>> counts.firing_rate
    array([1.  , 0.25, 0.  , 0.  ])
    >>> counts.dead_neuron_rate, counts.static_dead_neuron_rate, counts.dynamic_dead_neuron_rate
    (0.6875, 0.5, 0.1875)

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048), section 3 (firing rate)
        - [Liu et al., 2023](https://arxiv.org/abs/2212.06145) (dead-neuron rates)
    """

    counts: np.ndarray
    seen: int
    threshold: float = 0.0

    @property
    def firing_rate(self) -> np.ndarray:
        """The firing rate `counts / seen` of each neuron.

        Float array, shape `(neurons,)`, values in [0, 1]. NaN if `seen` is 0. Activation-based pruning ranks
        neurons by it. The paper ranks by counts, which gives the same order within a layer. Rates are also
        comparable between layers with different numbers of positions.
        """
        if not self.seen:
            return np.full(len(self.counts), np.nan)
        return self.counts / self.seen

    @property
    def dead_neuron_rate(self) -> float:
        """Float in [0, 1]. The fraction of dead neurons, averaged over inputs. NaN if `seen` is 0."""
        return self._fraction(len(self.counts) * self.seen - int(self.counts.sum()))

    @property
    def static_dead_neuron_rate(self) -> float:
        """Float in [0, 1]. The fraction of neurons that are dead on every input. NaN if `seen` is 0."""
        return self._fraction(self._never_fired * self.seen)

    @property
    def dynamic_dead_neuron_rate(self) -> float:
        """Float in [0, 1]. The part of `dead_neuron_rate` from neurons that are dead on some inputs only.

        NaN if `seen` is 0.
        """
        fired = len(self.counts) - self._never_fired
        return self._fraction(fired * self.seen - int(self.counts.sum()))

    @property
    def _never_fired(self) -> int:
        return int(np.sum(self.counts == 0))

    def _fraction(self, dead: int) -> float:
        """Returns a number of activations that are 0 as a fraction of all activations."""
        activations = len(self.counts) * self.seen
        return dead / activations if activations else np.nan

    def __getitem__(self, neurons: Any) -> "ActivationCounts":
        """Returns the counts of some neurons, selected by a slice or an index array."""
        return dataclasses.replace(self, counts=self.counts[neurons])

    def __add__(self, other: "ActivationCounts") -> "ActivationCounts":
        """Returns the counts over both sets of activations."""
        return self._combined(other, operator.add)

    def __sub__(self, earlier: "ActivationCounts") -> "ActivationCounts":
        """Returns the counts since `earlier`."""
        return self._combined(earlier, operator.sub)

    def _combined(self, other: "ActivationCounts", combine: Callable) -> "ActivationCounts":
        if self.threshold != other.threshold:
            raise ValueError(
                f"The counts have different thresholds, {self.threshold} and {other.threshold}: combine only "
                "counts of the same threshold."
            )
        counts, seen = combine(self.counts, other.counts), combine(self.seen, other.seen)
        return ActivationCounts(counts, seen, self.threshold)


# The statistics of a neuron's activations, with the dtypes of their values. The backends compute them.
STATISTICS = {"count": "int64", "sum": "float64", "square": "float64"}
