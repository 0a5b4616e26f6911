"""Magnitude criteria: the absolute weight, and LAMP's rescaling of it per layer."""

import numpy as np

from tfap.criteria.base import Criterion, built_in


@built_in
class Magnitude(Criterion):
    """The absolute weight, as in tfmot's `prune_low_magnitude`."""

    def scores(self, kernel):
        return np.abs(kernel.weights)


@built_in
class LAMP(Criterion):
    """The squared weight as a share of the squares of all weights of its kernel that are not smaller.

    `w^2 / sum of w'^2 over the alive w' of the kernel with |w'| >= |w|` (Lee et al., *Layer-adaptive sparsity
    for the magnitude-based pruning*, ICLR 2021, section 3). Within a kernel that is the order of the
    magnitudes; between kernels it makes the layers' sparsities adapt, so it is made for `scope="global"`. The
    one largest weight of each kernel scores 1 and goes last.

    Each update sorts every kernel's alive weights, which takes n log n.

    >>> import numpy, tfap
    >>> weights = numpy.array([[1.0, -2.0], [2.0, 0.0]])
    >>> LAMP().scores(tfap.Kernel("dense", tfap.KernelSpec(), weights, numpy.ones((2, 2), "uint8"))).round(3)
    array([[0.111, 0.5  ], [0.5  , 0.   ]])
    """

    def scores(self, kernel):
        squares = np.square(kernel.weights, dtype=np.float64)
        alive = kernel.mask.astype(bool)
        scores = np.zeros(squares.shape)
        scores[alive] = _shares(squares[alive])
        return scores


def _shares(squares):
    """Each entry over the sum of all that are not smaller; 0 where that is 0."""
    ascending = np.sort(squares)
    from_here_on = np.cumsum(ascending[::-1])[::-1]
    sums = from_here_on[np.searchsorted(ascending, squares)]
    return np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0)
