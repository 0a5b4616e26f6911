"""AP: weights whose removal lets dead neurons fire again, beside those that another criterion prunes."""

import dataclasses
import math
import numbers
import zlib

import numpy as np

from tfap.criteria.base import Criterion, built_in, get
from tfap.keras_compat.registry import serialize
from tfap.utils import checks

_CHOICES = {"which": ("least_moved", "random"), "sign": ("negative", "positive")}


@built_in
class AP(Criterion):
    """Activate while pruning: an add-on to any criterion (S. Liu et al., *AP*, TMLR 2023, arXiv 2212.06145).

    Of the n weights that an update prunes, `n - floor(share * n)` go by the base criterion, and then
    `floor(share * n)` of the alive negative weights that have moved least since the last update that pruned
    any, or since `prune()` or a rewind. Without a negative weight its neuron's pre-activation is higher, so a
    neuron that is dead on some inputs may wake up. Where fewer weights of that sign are left, those that are
    left go, and the update prunes that many fewer.

    Args:
        base: the criterion that chooses the others, or its name.
        share: of each update's removals, in [0, 1]. 0 is the base alone, 1 AP alone.
        which: "least_moved" as in the paper; or "random", to see that the choice matters.
        sign: "negative"; or "positive", to see that the sign matters.
        seed: of which="random": the choice depends on it, on the number of updates so far and on the layer.

    Raises:
        TypeError, ValueError: which argument cannot be used.

    It prunes single weights only; with scope="global" AP too ranks all layers together, with "local" each
    kernel by itself. Ties: the smallest absolute weight, then layer order, then index.

    >>> import numpy, tfap
    >>> weights, before = numpy.array([[1.0, -2.0, -3.0]]), numpy.array([[1.0, -1.0, -2.5]])
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, numpy.ones((1, 3), "uint8"), previous=before)
    >>> AP().second_scores(kernel)  # the last one has moved least
    array([[inf, 1. , 0.5]])
    """

    granularity = "weight"

    def __init__(self, base="magnitude", share=0.1, which="least_moved", sign="negative", seed=0):
        _check(share, seed, which=which, sign=sign)
        self.base = get(base)
        if isinstance(self.base, AP) and self.base.share:
            raise ValueError(f"The base of AP must not itself choose in two ways: received {self.base}.")
        self.share = float(share)
        self.which = which
        self.sign = sign
        self.seed = int(seed)
        for name in ("threshold", "statistic", "decay", "metric"):
            setattr(self, name, getattr(self.base, name))

    @property
    def counts(self):
        return self.base.counts

    @property
    def granularities(self):
        return ("weight",) if self.share else self.base.granularities

    @property
    def needs(self):
        if self.which == "least_moved":
            return self.base.needs | {"previous"}
        return self.base.needs | ({"updates"} if self.share else set())

    def scores(self, kernel):
        return self.base.scores(kernel)

    def second_scores(self, kernel):
        """Scores of one `tfap.Kernel` by which AP chooses its own share; infinity where a weight is kept."""
        negative = self.sign == "negative"
        eligible = kernel.weights < 0 if negative else kernel.weights > 0
        return np.where(eligible, getattr(self, f"_{self.which}")(kernel), np.inf)

    def new_masks(self, scored, sparsity, pattern):
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

    def get_config(self):
        names = ("share", "which", "sign", "seed")
        return {"base": serialize(self.base), **{name: getattr(self, name) for name in names}}

    def __repr__(self):
        return super().__repr__().replace(repr(serialize(self.base)), repr(self.base))


def _check(share, seed, **chosen):
    if not isinstance(share, numbers.Real) or not 0 <= share <= 1:
        raise ValueError(f"share must be a number in [0, 1]: received {share!r}.")
    checks.whole("seed", seed, least=0)
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {_CHOICES[name]}: received {value!r}.")
