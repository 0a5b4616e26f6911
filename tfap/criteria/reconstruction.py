"""Reconstruction: channels whose removal changes the sums of the layers that consume them least."""

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel


@built_in
class Reconstruction(Criterion):
    """Scores neurons by how much the sums of their consumers change, on data, if they are removed.

    The sums are those of the layers that consume the neuron, before their activation. The change is what is
    left after the weights of the other neurons have been refitted. Neurons are removed one by one, each after
    the refit of the earlier ones (the optimal brain surgeon, by columns). The score of a neuron is the
    squared change that its removal adds, relative to the squared sums. It supports `granularity="neuron"`
    only.

    `tfap.prune_once` measures it. In `fit`, pass the data to the callback:
    `tfap.UpdatePruningStep(reconstruction_data=x)`.

    Example:

    >>> import numpy, tfap
    >>> weights, mask = numpy.array([[1.0, -2.0]]), numpy.ones((1, 2), "uint8")
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, mask, removal_errors=numpy.array([0.1, 0.3]))
    >>> Reconstruction().scores(kernel)
    array([[0.1, 0.3]])

    References:
        - Hassibi and Stork, *Optimal brain surgeon*, NeurIPS 1992
        - Meng et al., *OSSCAR*, ICML 2024 (arXiv 2403.12983)
    """

    granularity = "neuron"
    granularities = ("neuron", "head")
    needs = frozenset({"removal_errors"})

    def scores(self, kernel: Kernel) -> np.ndarray:
        if kernel.removal_errors is None:
            raise ValueError(f"{self} needs the removal errors of '{kernel.path}': received None.")
        return np.broadcast_to(kernel.per_neuron(kernel.removal_errors), kernel.weights.shape)
