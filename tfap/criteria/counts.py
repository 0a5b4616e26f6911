"""Activation counts: the weights of neurons that seldom fire are pruned first."""

from typing import Any

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel
from tfap.utils import checks


@built_in
class ActivationCount(Criterion):
    """Scores weights by how often their neuron fires: activation-based pruning.

    The score of the weight w_ij into neuron j is `rate_j * |w_ij|` ("neuron x weight" in the paper) or
    `rate_j` alone ("neuron"). The firing rate is the count divided by samples x positions.

    Args:
        weighted: Whether to multiply by the absolute weight.
        side: "output" counts the neuron that the weight feeds, as the paper does. "input" counts the one that
            it reads, as the layer sees it: after pooling, Flatten or Dropout; for a first layer, the data.
        threshold: A float. An activation above it counts as firing. 0 suits ReLU and its variants. GELU, SiLU
            and tanh, which are never exactly 0, fire when positive; a sigmoid always fires at 0.
        statistic: "count" to count the activations above the threshold, or "sum" to sum them; the rate is
            then their mean.
        decay: The fraction of the counts that every mask update keeps, in [0, 1]. 1 keeps all, as in the
            paper; 0 resets them after each update; between them old counts decay exponentially.
        metric: The name of a logged metric, such as "accuracy". The counts of an epoch are multiplied by its
            value at the end of the epoch, so that late epochs weigh more. None weighs all epochs alike.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not one of those allowed.

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048), section 3
    """

    granularity = "neuron"

    def __init__(
        self,
        weighted: bool = True,
        side: str = "output",
        threshold: float = 0.0,
        statistic: str = "count",
        decay: float = 1.0,
        metric: str | None = None,
    ):
        checks.choice("side", side, ("output", "input"))
        checks.choice("statistic", statistic, ("count", "sum"))
        if not isinstance(weighted, bool | np.bool_):
            raise TypeError(f"weighted must be True or False: received {weighted!r}.")
        if not 0 <= checks.number("decay", decay) <= 1:
            raise ValueError(f"decay must be in [0, 1]: received {decay}.")
        self.weighted = bool(weighted)
        self.side = side
        self.threshold = checks.number("threshold", threshold)
        self.statistic = statistic
        self.decay = float(decay)
        self.metric = checks.text("metric", metric, none=True)

    @property
    def counts(self) -> str:
        return self.side

    def scores(self, kernel: Kernel) -> np.ndarray:
        if kernel.activations is None:
            raise ValueError(f"{self} needs the activation counts of '{kernel.path}': received None.")
        rates = kernel.activations.firing_rate
        rates = kernel.per_neuron(rates) if self.side == "output" else kernel.per_input(rates)
        if self.weighted:
            return rates * np.abs(kernel.weights)
        return np.broadcast_to(rates, kernel.weights.shape)

    def get_config(self) -> dict[str, Any]:
        names = ("weighted", "side", "threshold", "statistic", "decay", "metric")
        return {name: getattr(self, name) for name in names}
