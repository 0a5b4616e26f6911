"""Mask patterns: the shapes in which weights are pruned.

A new pattern is one subclass of `Pattern`, listed in `PATTERNS`.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tfap.graph.kernel import Kernel
from tfap.masks.neurons import prune_neurons, without_dead_inputs
from tfap.masks.weights import Scored, count_to_prune, prune_weights


class Pattern(abc.ABC):
    """Turns scores into masks of one shape. Pruned weights stay pruned.

    Args:
        min_weights_per_layer: Integer. Weights to keep in every kernel, whatever their scores.

    Attributes:
        granularity: The argument of `tfap.prune` that asks for this pattern.
        targets: The units that a sparsity may count.
        couples_neurons: Whether `new_masks` reads the neuron groups and costs of a `tfap.Kernel`.
    """

    granularity: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = ("weights",)
    couples_neurons: ClassVar[bool] = False

    def __init__(self, min_weights_per_layer: int = 0):
        self.min_weights_per_layer = min_weights_per_layer

    @abc.abstractmethod
    def new_masks(self, scored: Sequence[Scored], sparsity: float) -> list[np.ndarray]:
        """Returns one uint8 mask per kernel, of kernels that are ranked together."""

    def complete(self, kernels: Sequence[Kernel], masks: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Adds to the masks of all kernels of an update what follows from pruning the others."""
        return masks


class SingleWeights(Pattern):
    """Prunes single weights: exactly the number asked for. A weight that scores infinity is kept."""

    granularity = "weight"

    def new_masks(self, scored, sparsity):
        return prune_weights(scored, sparsity, self.min_weights_per_layer)

    def count_to_prune(self, scored: Sequence[Scored], sparsity: float) -> int:
        """Returns how many more weights `new_masks` prunes."""
        return count_to_prune(scored, sparsity, self.min_weights_per_layer)


class WholeNeurons(Pattern):
    """Prunes whole neurons or channels, coupled ones together."""

    granularity = "neuron"
    targets = ("weights", "neurons", "flops")
    couples_neurons = True

    def new_masks(self, scored, sparsity):
        return prune_neurons(scored, sparsity, self.min_weights_per_layer)

    def complete(self, kernels, masks):
        return without_dead_inputs(kernels, masks)


PATTERNS: dict[str, type[Pattern]] = {cls.granularity: cls for cls in (SingleWeights, WholeNeurons)}
