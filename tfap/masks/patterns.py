"""Mask patterns: the shapes in which weights are pruned.

A new pattern is one subclass of `Pattern`, listed in `PATTERNS` by the granularity that asks for it. `Blocks`
and `MByN` have arguments of their own, so `PruningSettings.pattern` makes them.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tfap.graph import layer_types
from tfap.graph.kernel import Kernel, KernelSpec
from tfap.masks.blocks import expanded, pooled
from tfap.masks.groups import protected
from tfap.masks.neurons import prune_neurons, without_dead_inputs
from tfap.masks.weights import Scored, count_to_prune, prune_weights


class Pattern(abc.ABC):
    """Turns scores into masks of one shape. Pruned weights stay pruned.

    Every kernel keeps at least one weight, so no pattern cuts a model in two.

    Args:
        min_weights_per_layer: Integer. Weights to keep in every kernel, whatever their scores.

    Attributes:
        granularity: The argument of `tfap.prune` that asks for this pattern. None for the patterns that
            `block_size` and `sparsity_m_by_n` ask for.
        targets: The units that a sparsity may count.
        couples_neurons: Whether `new_masks` reads the neuron groups and costs of a `tfap.Kernel`.
    """

    granularity: ClassVar[str | None] = None
    targets: ClassVar[tuple[str, ...]] = ("weights",)
    couples_neurons: ClassVar[bool] = False

    def __init__(self, min_weights_per_layer: int = 0):
        self.min_weights_per_layer = min_weights_per_layer

    def kernel_specs(self, layer: Any) -> tuple[KernelSpec, ...]:
        """Lists the weights of a layer that can be pruned in this pattern."""
        return layer_types.kernel_specs(layer)

    @abc.abstractmethod
    def new_masks(self, scored: Sequence[Scored], sparsity: float) -> list[np.ndarray]:
        """Returns one uint8 mask per kernel, of kernels that are ranked together."""

    def complete(self, kernels: Sequence[Kernel], masks: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Adds to the masks of all kernels of an update what follows from pruning the others."""
        return masks

    def why_not(self, shape: Sequence[int]) -> str | None:
        """Returns why a weight of this shape cannot be pruned in this pattern. None if it can."""
        return None

    def smallest_kept(self, item: Scored, mask: np.ndarray) -> float:
        """Returns the smallest score that a new mask keeps, as tfmot logs it. 0 if it keeps none."""
        kept = item.scores[mask.astype(bool)]
        return float(kept.min()) if kept.size else 0.0


class SingleWeights(Pattern):
    """Prunes single weights: exactly the number asked for. A weight that scores infinity is kept."""

    granularity = "weight"

    def __init__(self, min_weights_per_layer: int = 0, rounds_kept: bool = False):
        super().__init__(min_weights_per_layer)
        self.rounds_kept = rounds_kept

    def new_masks(self, scored, sparsity):
        return self._pruned(scored, sparsity, self.min_weights_per_layer)

    def count_to_prune(self, scored: Sequence[Scored], sparsity: float) -> int:
        """Returns how many more weights `new_masks` prunes."""
        return count_to_prune(scored, sparsity, max(self.min_weights_per_layer, 1))

    def _pruned(self, scored, sparsity, floor):
        masks = prune_weights(scored, sparsity, floor, self.rounds_kept)
        if all(mask.any() or not item.kernel.mask.any() for mask, item in zip(masks, scored)):
            return masks
        return prune_weights(scored, sparsity, max(floor, 1), self.rounds_kept)


class Blocks(SingleWeights):
    """Prunes whole blocks of a kernel: exactly the fraction asked for, in blocks.

    Args:
        block_size: Tuple of two integers: rows and columns of a block; see `masks/blocks.py`.
        block_pooling_type: "AVG" or "MAX": how the scores of its weights make the score of a block.
        min_weights_per_layer: Integer. Weights to keep in every kernel, rounded up to whole blocks.
        rounds_kept: As in `prune_weights`.
    """

    granularity = None

    def __init__(
        self,
        block_size: tuple[int, int],
        block_pooling_type: str = "AVG",
        min_weights_per_layer: int = 0,
        rounds_kept: bool = False,
    ):
        super().__init__(min_weights_per_layer, rounds_kept)
        self.block_size = block_size
        self.block_pooling_type = block_pooling_type

    def new_masks(self, scored, sparsity):
        blocks = [self._blocks(item) for item in scored]
        floor = -(-self.min_weights_per_layer // math.prod(self.block_size))
        masks = self._pruned(blocks, sparsity, floor)
        return [expanded(mask, item.kernel, self.block_size) for mask, item in zip(masks, scored)]

    def why_not(self, shape):
        return _why_no_matrix("block_size", shape)

    def smallest_kept(self, item, mask):
        blocks = self._blocks(item)
        kept = self._blocks(Scored(dataclasses.replace(item.kernel, mask=mask), item.scores)).kernel.mask
        return super().smallest_kept(blocks, kept)

    def _blocks(self, item):
        return pooled(item, self.block_size, self.block_pooling_type)


class MByN(SingleWeights):
    """Prunes single weights, at most m in every group of n: exactly m at the sparsity m / n and above.

    Args:
        sparsity_m_by_n: Tuple of two integers, m and n; see `masks/groups.py`.
        min_weights_per_layer: Integer. Weights to keep in every kernel, whatever their scores.
    """

    granularity = None

    def __init__(self, sparsity_m_by_n: tuple[int, int], min_weights_per_layer: int = 0):
        super().__init__(min_weights_per_layer)
        self.sparsity_m_by_n = sparsity_m_by_n

    def new_masks(self, scored, sparsity):
        return super().new_masks([protected(item, self.sparsity_m_by_n) for item in scored], sparsity)

    def count_to_prune(self, scored, sparsity):
        free = sum(
            np.count_nonzero(np.isfinite(protected(item, self.sparsity_m_by_n).scores[item.kernel.mask > 0]))
            for item in scored
        )
        return min(super().count_to_prune(scored, sparsity), free)

    def why_not(self, shape):
        return _why_no_matrix("sparsity_m_by_n", shape)


class WholeNeurons(Pattern):
    """Prunes whole neurons or channels, coupled ones together.

    Args:
        min_weights_per_layer: As in `Pattern`.
        round_to: Integer >= 1. A kernel with at least as many neurons keeps a multiple of it, or all.
    """

    granularity = "neuron"
    targets = ("weights", "neurons", "flops")
    couples_neurons = True

    def __init__(self, min_weights_per_layer: int = 0, round_to: int = 1):
        super().__init__(min_weights_per_layer)
        self.round_to = round_to

    def new_masks(self, scored, sparsity):
        return prune_neurons(scored, sparsity, self.min_weights_per_layer, self.round_to)

    def complete(self, kernels, masks):
        return without_dead_inputs(kernels, masks)

    def why_not(self, shape):
        return _why_no_matrix("granularity='neuron'", shape)


class WholeHeads(WholeNeurons):
    """Prunes whole heads of attention layers, with their part of every kernel and their biases.

    Query heads that share a head of keys and values are pruned together.
    """

    granularity = "head"

    def kernel_specs(self, layer):
        return layer_types.head_specs(layer)


class WholeUnits(WholeNeurons):
    """Prunes whole heads of attention layers as `WholeHeads`, and whole neurons of all other layers."""

    granularity = "unit"

    def kernel_specs(self, layer):
        return layer_types.head_specs(layer) or layer_types.kernel_specs(layer)


def _why_no_matrix(argument, shape):
    if len(shape) > 1:
        return None
    return f"{argument} needs a weight of two axes or more, and its shape is {tuple(shape)}"


PATTERNS: dict[str, type[Pattern]] = {
    "weight": SingleWeights,
    "neuron": WholeNeurons,
    "head": WholeHeads,
    "unit": WholeUnits,
}
