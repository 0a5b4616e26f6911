"""Lookahead: magnitudes seen together with the layers before and after."""

import numpy as np

from tfap.criteria.base import Criterion
from tfap.criteria.known import built_in


@built_in
class Lookahead(Criterion):
    """The absolute weight times the norms of what stands before its input and behind its neuron.

    `|w_ij| * ||weights into i|| * ||weights out of j||`, Frobenius norms of the alive weights of the
    previous layer into neuron i and of the next out of neuron j, pruned or not, the output layer included
    (Park et al., *Lookahead: a far-sighted alternative of magnitude-based pruning*, ICLR 2020, section 2).

    What is next to a layer comes from the model's graph, past activations, pooling, Flatten and the like.
    Where several layers feed or read the same channels, as around a residual Add, they count together. A
    factor is 1 where there is no such layer or none that tfap sees through: for the data itself, for a
    model's outputs, and in a subclassed model, where it is the magnitude that ranks. The scales of
    BatchNormalization, by which the paper multiplies, are left out: these norms are of kernels alone.

    >>> import numpy, tfap
    >>> from tfap.kernels import Kernel
    >>> weights, mask = numpy.array([[1.0, -2.0], [3.0, 4.0]]), numpy.ones((2, 2), "uint8")
    >>> norms = {"input_norms": numpy.array([[2.0], [1.0]]), "neuron_norms": numpy.array([[1.0, 0.5]])}
    >>> Lookahead().scores(Kernel("dense", tfap.KernelSpec(), weights, mask, **norms))
    array([[2., 2.], [3., 2.]])
    """

    needs = frozenset({"input_norms", "neuron_norms"})

    def scores(self, kernel):
        return np.abs(kernel.weights) * kernel.input_norms * kernel.neuron_norms
