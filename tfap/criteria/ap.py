"""AP, which prunes weights so that dead neurons may fire again, in addition to another criterion."""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap.criteria.base import Criterion, built_in, get
from tfap.graph.kernel import Kernel
from tfap.keras_compat.registry import serialize
from tfap.utils import checks

_CHOICES = {"which": ("least_moved", "random"), "sign": ("negative", "positive")}


@built_in
class AP(Criterion):
    """Prunes a fraction of the weights so that dead neurons are reactivated: activating-while-pruning (AP).

    AP is an add-on to any criterion. Of the n weights that an update prunes, the base criterion chooses
    `n - floor(share * n)`. AP then chooses `floor(share * n)` of the kept negative weights: those that have
    moved least since the last update that pruned any, since `prune()`, or since a rewind. Pruning a negative
    weight raises the pre-activation of its neuron, so a neuron that is dead on some inputs may reactivate. If
    fewer weights of that sign are kept, AP prunes only those, and the update prunes fewer weights.

    AP supports `granularity="weight"` only, with `sparsity_m_by_n` but without `block_size`. With
    `scope="global"` AP also ranks all layers together, with "local" each kernel. Equal scores are ranked by
    the absolute weight, then layer order, then index.

    Args:
        base: The criterion that chooses the other weights, or its name.
        share: The fraction of each update's weights that AP chooses, in [0, 1]. 0 is the base alone, 1 is AP
            alone.
        which: "least_moved" as in the paper, or "random" as a control.
        sign: "negative" as in the paper, or "positive" as a control.
        seed: Integer. For which="random": the choice depends on it, on the number of updates and on the
            layer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not one of those allowed, or the base is another AP.

    Example:

    >>> import numpy, tfap
    >>> weights, before = numpy.array([[1.0, -2.0, -3.0]]), numpy.array([[1.0, -1.0, -2.5]])
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, numpy.ones((1, 3), "uint8"), previous=before)
    >>> AP().second_scores(kernel)  # the last one has moved least
    array([[inf, 1. , 0.5]])

    References:
        - [S. Liu et al., *AP*, TMLR 2023](https://arxiv.org/abs/2212.06145)
    """

    granularity = "weight"

    def __init__(
        self,
        base: Criterion | str = "magnitude",
        share: float = 0.1,
        which: str = "least_moved",
        sign: str = "negative",
        seed: int = 0,
    ):
        _check(share, seed, which=which, sign=sign)
        self.share: float = float(share)
        self.base = get(base)
        if isinstance(self.base, AP) and self.base.share:
            raise ValueError(f"The base of AP must not be another AP: received {self.base}.")
        self.which = which
        self.sign = sign
        self.seed = int(seed)
        for name in ("threshold", "statistic", "decay", "metric"):
            setattr(self, name, getattr(self.base, name))

    @property
    def counts(self) -> str | None:
        return self.base.counts

    @property
    def granularities(self) -> tuple[str, ...] | None:
        return ("weight",) if self.share else self.base.granularities

    @property
    def supports_blocks(self) -> bool:
        return not self.share and self.base.supports_blocks

    @property
    def needs(self) -> frozenset[str]:
        if self.which == "least_moved":
            return self.base.needs | {"previous"}
        return self.base.needs | ({"updates"} if self.share else set())

    def scores(self, kernel: Kernel) -> np.ndarray:
        return self.base.scores(kernel)

    def second_scores(self, kernel: Kernel) -> np.ndarray:
        """Scores the weights of one kernel for AP's own choice.

        Args:
            kernel: A `tfap.Kernel`.

        Returns:
            An array of the shape of `kernel.weights`: infinity where AP must not prune a weight.
        """
        negative = self.sign == "negative"
        eligible = kernel.weights < 0 if negative else kernel.weights > 0
        return np.where(eligible, getattr(self, f"_{self.which}")(kernel), np.inf)

    def new_masks(self, scored: Sequence[Any], sparsity: float, pattern: Any) -> list[np.ndarray]:
        if not self.share:
            return self.base.new_masks(scored, sparsity, pattern)
        total = sum(item.kernel.mask.size for item in scored)
        before = total - sum(np.count_nonzero(item.kernel.mask) for item in scored)
        after = before + pattern.count_to_prune(scored, sparsity)
        own = math.floor(self.share * (after - before) + 1e-9)  # 0.29 of 100 is 29, but 0.29 * 100 is less
        masks = self.base.new_masks(scored, (after - own) / total, pattern)
        left = [
            dataclasses.replace(
                item,
                kernel=dataclasses.replace(item.kernel, mask=mask),
                scores=self.second_scores(item.kernel),
            )
            for item, mask in zip(scored, masks)
        ]
        return pattern.new_masks(left, after / total)

    def _least_moved(self, kernel):
        return np.abs(kernel.weights - kernel.previous)

    def _random(self, kernel):
        where = zlib.crc32(f"{kernel.path} {kernel.spec.name}".encode())
        return np.random.default_rng([self.seed, kernel.updates, where]).random(kernel.weights.shape)

    def get_config(self) -> dict[str, Any]:
        names = ("share", "which", "sign", "seed")
        return {"base": serialize(self.base), **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        return super().__repr__().replace(repr(serialize(self.base)), repr(self.base))


def _check(share, seed, **chosen):
    if not 0 <= checks.number("share", share) <= 1:
        raise ValueError(f"share must be a number in [0, 1]: received {share!r}.")
    checks.integer("seed", seed, least=0)
    for name, value in chosen.items():
        checks.choice(name, value, _CHOICES[name])
