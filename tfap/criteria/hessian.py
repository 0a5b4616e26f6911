"""The Hessian diagonal: weights whose removal raises the loss least, to second order, are pruned first."""

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel


@built_in
class HessianDiagonal(Criterion):
    """Scores weights by `w^2 * h`, where h estimates the diagonal of the loss's Hessian.

    After training, the first-order change of the loss is near 0 for every weight, and `w^2 * h / 2` is the
    change to second order if the weight is pruned (optimal brain damage). h is the empirical Fisher: the mean
    of the squared gradient of the loss, over the batches of the data that `tfap.Gradient` takes too. Batches
    are weighted by their number of samples.

    The gradients are those of whole batches, so h depends on how the data is split. Batches of one sample
    give the empirical Fisher of the literature. Larger ones take less time, and average out gradients that
    differ between samples. Arrays are split into batches of 128. To choose the size, pass batches, such as
    `tf.data.Dataset.from_tensor_slices((x, y)).batch(1)`.

    Example:

    >>> import numpy, tfap
    >>> weights, squares = numpy.array([[1.0, -2.0]]), numpy.array([[0.5, 0.25]])
    >>> mask = numpy.ones((1, 2), "uint8")
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, mask, squared_gradients=squares)
    >>> HessianDiagonal().scores(kernel)
    array([[0.5, 1. ]])

    References:
        - LeCun et al., *Optimal brain damage*, NeurIPS 1989
        - Theis et al., *Faster gaze prediction with dense networks and Fisher pruning*, 2018
          (arXiv 1801.05787)
    """

    needs = frozenset({"squared_gradients"})

    def scores(self, kernel: Kernel) -> np.ndarray:
        if kernel.squared_gradients is None:
            raise ValueError(f"{self} needs the squared gradients of '{kernel.path}': received None.")
        return np.square(kernel.weights, dtype=np.float64) * kernel.squared_gradients
