"""How often neurons fired: the one counter that both papers build on."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationCounts:
    """How often each neuron of one layer fired, and how many activations were seen.

    Attributes:
        counts: int64, shape `(neurons,)`: activations above the threshold.
        seen: int: activations looked at, a neuron: samples x positions x calls. A Dense layer on
            `(batch, features)` has one position, a convolution one for every output pixel.

    >>> ActivationCounts(np.array([8, 2]), seen=8).firing_rate
    array([1.  , 0.25])
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

    def __getitem__(self, neurons):
        """The counts of some of the neurons, as a slice or an index array."""
        return ActivationCounts(self.counts[neurons], self.seen)

    def __add__(self, other):
        """The counts over both sets of activations."""
        return ActivationCounts(self.counts + other.counts, self.seen + other.seen)

    def __sub__(self, earlier):
        """The counts of the window since `earlier`."""
        return ActivationCounts(self.counts - earlier.counts, self.seen - earlier.seen)
