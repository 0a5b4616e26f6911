"""Gradient: weights whose loss would hardly be noticed go first."""

import numpy as np

from tfap.criteria.base import Criterion
from tfap.criteria.known import built_in


@built_in
class Gradient(Criterion):
    """The absolute weight times gradient: by how much the loss would change, to first order, without it.

    `|w * dL/dw|`, L the mean of the model's compiled loss, regularizers included, over the batches given as
    `tfap.UpdatePruningStep(gradient_data=...)` or to `tfap.update_masks`, with the weights as they are at the
    update and in inference mode. With `scope="global"` and `"local"` these are the global and the layerwise
    gradient pruning of Blalock et al. (*What is the state of neural network pruning?*, MLSys 2020).

    >>> import numpy, tfap
    >>> from tfap.kernels import Kernel
    >>> weights, gradients = numpy.array([[1.0, -2.0]]), numpy.array([[0.5, 1.0]])
    >>> kernel = Kernel("a", tfap.KernelSpec(), weights, numpy.ones((1, 2), "uint8"), gradients=gradients)
    >>> Gradient().scores(kernel)
    array([[0.5, 2. ]])
    """

    needs = frozenset({"gradients"})

    def scores(self, kernel):
        return np.abs(kernel.weights * kernel.gradients)
