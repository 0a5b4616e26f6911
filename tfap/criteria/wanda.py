"""Wanda: weights times the norms of the activations that they read, ranked per output neuron."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel
from tfap.utils import checks


@built_in
class Wanda(Criterion):
    """Scores weights by their magnitude and by how large the activations are that they read.

    The score is `|w_ij| * ||x_i|| / sqrt(n)`. ||x_i|| is the L2 norm of input i over the n samples and
    positions of the data, so the factor is the root mean square of the input: the paper's factor without the
    number of samples, which changes no ranking.

    With `granularity="weight"`, weights are compared with the weights of the same output neuron, as in the
    paper: an update prunes the same fraction of the weights of every neuron, up to one weight per neuron by
    rounding. With "neuron", scores are averaged as for every criterion.

    In `fit`, the inputs of the layers are counted in the training steps, without further data. `decay=0.0`
    forgets them at every update. `tfap.prune_once` reads them on its data. Weights that read no input of
    their layer, such as recurrent kernels, are not pruned.

    Args:
        decay: Float in [0, 1]. The fraction of the sums that every mask update keeps, as in
            `tfap.ActivationCount`. 1 keeps all.

    Raises:
        TypeError: If `decay` is not a number.
        ValueError: If it is outside [0, 1].

    Example:

    >>> import numpy, tfap
    >>> weights, mask = numpy.array([[1.0, -2.0], [3.0, 4.0]]), numpy.ones((2, 2), "uint8")
    >>> inputs = tfap.ActivationCounts(numpy.array([64.0, 4.0]), seen=4)  # sums of squares over 4 samples
    >>> Wanda().scores(tfap.Kernel("a", tfap.KernelSpec(), weights, mask, inputs))
    array([[4., 8.],
           [3., 4.]])

    References:
        - Sun et al., *A simple and effective pruning approach for large language models*, ICLR 2024
          (arXiv 2306.11695), section 3
    """

    counts = "input"
    statistic = "square"
    supports_blocks = False

    def __init__(self, decay: float = 1.0):
        if not 0 <= checks.number("decay", decay) <= 1:
            raise ValueError(f"decay must be in [0, 1]: received {decay}.")
        self.decay = float(decay)

    def scores(self, kernel: Kernel) -> np.ndarray:
        if kernel.activations is None:
            raise ValueError(f"{self} needs the activations that '{kernel.path}' reads: received None.")
        return np.abs(kernel.weights) * kernel.per_input(np.sqrt(kernel.activations.firing_rate))

    def new_masks(self, scored: Sequence[Any], sparsity: float, pattern: Any) -> list[np.ndarray]:
        if not pattern.couples_neurons:
            scored = [dataclasses.replace(item, scores=_ranks(item.kernel, item.scores)) for item in scored]
        return pattern.new_masks(scored, sparsity)

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}


def _ranks(kernel, scores):
    """Returns the fraction of the weights of the same neuron that are pruned before a weight, in (0, 1]."""
    values = kernel.by_neuron(np.where(kernel.mask, scores, -1.0))
    magnitudes = kernel.by_neuron(np.abs(kernel.weights))
    order = np.lexsort((magnitudes, values), axis=-1)  # equal scores by the absolute weight
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[1] + 1)[None] / values.shape[1], axis=-1)
    return kernel.from_neurons(ranks)
