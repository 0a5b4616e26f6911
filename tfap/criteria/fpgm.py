"""FPGM: filters near the geometric median of their layer are pruned first."""

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel


@built_in
class FPGM(Criterion):
    """Scores neurons by the mean distance of their weights to those of the other neurons of the layer.

    A filter near the geometric median of all filters can be represented by the others, so it is pruned first,
    whatever its norm. The score of neuron j is the mean Euclidean distance between its incoming weights and
    those of every other kept neuron; the paper's sum ranks a layer in the same order. It supports
    `granularity="neuron"` only and needs no data.

    Distances grow with the scale and the fan-in of a layer, so layers are not comparable: the paper prunes
    the same fraction per layer, which is `scope="local"`. Time and memory are quadratic in the neurons of a
    layer.

    Example:

    >>> import numpy, tfap
    >>> weights = numpy.array([[0.0, 1.0, 5.0]])  # neurons with one weight each
    >>> FPGM().scores(tfap.Kernel("a", tfap.KernelSpec(), weights, numpy.ones((1, 3), "uint8")))
    array([[3. , 2.5, 4.5]])

    References:
        - He et al., *Filter pruning via geometric median*, CVPR 2019, section 3.3
    """

    granularity = "neuron"
    granularities = ("neuron",)

    def scores(self, kernel: Kernel) -> np.ndarray:
        rows = kernel.by_neuron(np.multiply(kernel.weights, kernel.mask, dtype=np.float64))
        kept = kernel.neuron_sums(kernel.mask.astype(np.int64)) > 0
        distances = np.zeros(len(rows))
        distances[kept] = _mean_distances(rows[kept])
        return np.broadcast_to(kernel.per_neuron(distances), kernel.weights.shape)


def _mean_distances(rows):
    """Returns the mean distance of each row to the others; 0 for a row without others."""
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = squares[:, None] + squares - 2 * (rows @ rows.T)
    np.fill_diagonal(distances, 0)
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)  # rounding may bring equal rows below 0
    return distances.sum(axis=1) / max(len(rows) - 1, 1)
