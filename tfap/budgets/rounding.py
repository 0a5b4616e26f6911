"""Rounds kept channels up, so that every layer keeps a multiple of some number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfap.budgets.budget import Budget
from tfap.graph.linear import Grouped
from tfap.graph.liveness import Liveness
from tfap.utils import checks

# Runtimes compute blocks of 8 or 16 channels at once. Without whole blocks, some take a slower path, in which
# a smaller model may be slower than the given one.
BLOCK = 8


def multiples(round_to: int | None, goal: Any) -> tuple[int, ...]:
    """Returns the numbers of which layers may keep multiples of channels, the first to try first.

    Args:
        round_to: Integer >= 1, which is the only one. None is chosen by the goal.
        goal: The `Budget`, or what else decides the number of channels.

    >>> multiples(None, Budget("speedup", 2.0)), multiples(None, Budget("flops", 0.5)), multiples(4, 0.5)
    ((8, 1), (1,), (4,))
    """
    if round_to is None:
        return (BLOCK, 1) if isinstance(goal, Budget) and goal.is_timed else (1,)
    return (checks.integer("round_to", round_to),)


@dataclasses.dataclass(frozen=True)
class Rounded:
    """What rounding kept, next to what would be kept without it, under the same budget or sparsity.

    Attributes:
        round_to: Integer. Every layer that has as many channels keeps a multiple of it, or all of them.
        channels: Tuple `(without, with)`. Kept channels of all layers.
        weights: Tuple `(without, with)`. Number of weights of the model.
        flops: Tuple `(without, with)`. FLOPs per sample; None if they are unknown.
    """

    round_to: int
    channels: tuple[int, int]
    weights: tuple[int, int]
    flops: tuple[int, int] | None

    def __str__(self) -> str:
        more = self.channels[1] - self.channels[0]
        text = (
            f"Channels are multiples of {self.round_to}: {abs(more):,} {'more' if more >= 0 else 'fewer'} "
            f"channels than without rounding, {self.weights[1]:,} weights instead of {self.weights[0]:,}"
        )
        if self.flops is None:
            return f"{text}."
        return f"{text}, {self.flops[1]:,} FLOPs instead of {self.flops[0]:,}."


class Rounding:
    """Keeps more channels until the shapes of all layers are allowed.

    Args:
        liveness: The `Liveness` of the model.
        round_to: Integer >= 1. A layer with at least as many channels keeps a multiple of it, or all.
        evened: Function of a boolean array of kept groups that returns at least as many, so that every group
            of a grouped convolution has as many channels.
    """

    def __init__(self, liveness: Liveness, round_to: int, evened: Callable[[np.ndarray], np.ndarray]) -> None:
        self._multiple, self._evened = round_to, evened
        maps = {**liveness.linear_maps, **liveness.depthwise}
        self._layers = {path: liveness.groups(path)[1] for path in maps}
        grouped = [
            side
            for path, matrix in maps.items()
            if isinstance(matrix, Grouped)
            for side in liveness.groups(path)
            if side is not None
        ]
        self._grouped = np.zeros(liveness.channels.size, bool)
        self._grouped[np.concatenate([*grouped, np.zeros(0, int)]).astype(int)] = True

    def applied(self, kept: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Keeps more groups.

        Args:
            kept: Boolean array: which channel groups are kept.
            ranks: Array with a number per group. Groups with higher ones are kept first.

        Returns:
            A boolean array.
        """
        kept = self._evened(kept)
        if self._multiple == 1:
            return kept
        while True:
            before = kept
            for groups in self._layers.values():
                kept = self._rounded(kept, groups, ranks)
            kept = self._evened(kept)
            if np.array_equal(kept, before):
                return kept

    def _rounded(self, kept, groups, ranks):
        missing = -int(kept[groups].sum()) % self._multiple
        if not missing or len(groups) < self._multiple:
            return kept
        kept = kept.copy()
        left, channels = np.unique(groups[~kept[groups]], return_counts=True)
        for group, count in sorted(zip(left, channels), key=lambda pair: -ranks[pair[0]]):
            kept[group] = True
            missing -= count
            if missing <= 0 or self._grouped[group]:  # the other groups of a convolution get one too
                break
        return kept

    def channels(self, kept: np.ndarray) -> int:
        """Counts the channels of all layers with kernels."""
        return sum(int(kept[groups].sum()) for groups in self._layers.values())
