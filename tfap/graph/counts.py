"""How often neurons fired: the one counter that both papers build on."""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationCounts:
    """How often each neuron of one layer fired, and how many activations were seen.

    Attributes:
        counts: int64, shape `(neurons,)`: activations above the threshold.
        seen: int: activations looked at, a neuron: samples x positions x calls. A Dense layer on
            `(batch, features)` has one position, a convolution one for every output pixel. Where a channel
            at each position is a neuron of its own, samples x calls.

    The dead-neuron rates below are those of Liu et al. (AP, TMLR 2023): a ReLU neuron is dead on an input
    if it gives out 0. They are rates of a net only if all was counted at the same weights: on data
    (`tfap.measure_activations`), not over a training, in which a neuron that died late has fired before.

    >>> counted = ActivationCounts(np.array([8, 2, 0, 0]), seen=8)
    >>> counted.firing_rate
    array([1.  , 0.25, 0.  , 0.  ])
    >>> counted.dead_neuron_rate, counted.static_dead_neuron_rate, counted.dynamic_dead_neuron_rate
    (0.6875, 0.5, 0.1875)
    """

    counts: np.ndarray
    seen: int

    @property
    def firing_rate(self):
        """float64, shape `(neurons,)`, in [0, 1]: count / seen; NaN if nothing was seen.

        The saliency of activation-based pruning (Ganguli and Chong, 2024, section 3). The paper
        ranks by the count, which within dense nets is the same order; the rate makes layers with
        different numbers of positions comparable.
        """
        if not self.seen:
            return np.full(len(self.counts), np.nan)
        return self.counts / self.seen

    @property
    def dead_neuron_rate(self):
        """float in [0, 1]: the share of dead neurons, averaged over inputs; NaN if nothing was seen."""
        return self._share(len(self.counts) * self.seen - int(self.counts.sum()))

    @property
    def static_dead_neuron_rate(self):
        """float in [0, 1]: the share of neurons that were dead on every input; NaN if nothing was seen."""
        return self._share(self._never_fired * self.seen)

    @property
    def dynamic_dead_neuron_rate(self):
        """float in [0, 1]: the rest, of neurons dead on some inputs only; NaN if nothing was seen."""
        alive = len(self.counts) - self._never_fired
        return self._share(alive * self.seen - int(self.counts.sum()))

    @property
    def _never_fired(self):
        return int(np.sum(self.counts == 0))

    def _share(self, dead):
        """`dead` pairs of a neuron and an activation, as a share of all that were seen."""
        seen = len(self.counts) * self.seen
        return dead / seen if seen else np.nan

    def __getitem__(self, neurons):
        """The counts of some of the neurons, as a slice or an index array."""
        return ActivationCounts(self.counts[neurons], self.seen)

    def __add__(self, other):
        """The counts over both sets of activations."""
        return ActivationCounts(self.counts + other.counts, self.seen + other.seen)

    def __sub__(self, earlier):
        """The counts of the window since `earlier`."""
        return ActivationCounts(self.counts - earlier.counts, self.seen - earlier.seen)


def firing(activations, axis, threshold):
    """`(counts, seen)` of one batch: int64, how often each neuron is above the threshold, and of how many."""
    fired = tf.cast(activations > tf.cast(threshold, activations.dtype), tf.int32)
    return tf.cast(_over_all_but(axis, fired), tf.int64), _seen(activations, axis)


def summed(activations, axis, threshold):
    """`(sums, seen)` of one batch: float64, the sum of each neuron's activations above the threshold."""
    above = activations > tf.cast(threshold, activations.dtype)
    sums = _over_all_but(axis, tf.where(above, tf.cast(activations, tf.float64), 0.0))
    return sums, _seen(activations, axis)


firing.dtype, summed.dtype = "int64", "float64"


STATISTICS = {"count": firing, "sum": summed}


def _over_all_but(axis, values):
    rank = values.shape.rank
    return tf.reduce_sum(values, [other for other in range(rank) if other != axis % rank])


def _seen(activations, axis):
    return tf.size(activations, tf.int64) // activations.shape[axis]
