"""Magnitude criteria: the absolute weight, and LAMP, which rescales it per layer."""

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel


@built_in
class Magnitude(Criterion):
    """Scores weights by their absolute value, as tfmot's `prune_low_magnitude` does."""

    def scores(self, kernel: Kernel) -> np.ndarray:
        return np.abs(kernel.weights)


@built_in
class LAMP(Criterion):
    """Scores weights by their squares relative to the larger weights of the kernel.

    The score of a weight w is `w^2 / sum of w'^2` over the kept weights w' of its kernel with `|w'| >= |w|`.
    Within a kernel, LAMP ranks like the magnitude. Between kernels it adapts the sparsity of each layer, so
    it is meant for `scope="global"`. The largest weight of each kernel scores 1 and is pruned last.

    Each update sorts the kept weights of every kernel in O(n log n).

    Example:

    >>> import numpy, tfap
    >>> weights = numpy.array([[1.0, -2.0], [2.0, 0.0]])
    >>> LAMP().scores(tfap.Kernel("dense", tfap.KernelSpec(), weights, numpy.ones((2, 2), "uint8"))).round(3)
    array([[0.111, 0.5  ], [0.5  , 0.   ]])

    References:
        - Lee et al., *Layer-adaptive sparsity for the magnitude-based pruning*, ICLR 2021, section 3
    """

    def scores(self, kernel: Kernel) -> np.ndarray:
        squares = np.square(kernel.weights, dtype=np.float64)
        alive = kernel.mask.astype(bool)
        scores = np.zeros(squares.shape)
        scores[alive] = _shares(squares[alive])
        return scores


def _shares(squares):
    """Divides each entry by the sum of all that are not smaller; 0 where that sum is 0."""
    ascending = np.sort(squares)
    from_here_on = np.cumsum(ascending[::-1])[::-1]
    sums = from_here_on[np.searchsorted(ascending, squares)]
    return np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0)
