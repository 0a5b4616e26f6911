"""Activation counts: weights of neurons that seldom fire go first."""

import numpy as np

from tfap.criteria.base import Criterion, built_in
from tfap.utils import checks


@built_in
class ActivationCount(Criterion):
    """How often the weight's neuron fires: activation-based pruning (Ganguli and Chong, 2024, section 3).

    The score of weight w_ij into neuron j is `rate_j * |w_ij|` ("neuron x weight" in the paper) or
    `rate_j` alone ("neuron"); the firing rate is the count divided by samples x positions.

    Args:
        weighted: multiply by the absolute weight.
        side: "output" counts the neuron that the weight feeds, as the paper does; "input" the one it
            reads, as the layer sees it: after pooling, Flatten or Dropout, and for a first layer the
            data itself.
        threshold: an activation above it counts as firing. 0 suits ReLU and its kin. Activations that
            are never exactly 0 (GELU, SiLU, tanh) fire when positive; a sigmoid always does at 0.
        statistic: "count" of the activations above the threshold, or their "sum", of which the rate is
            then the mean.
        decay: share of the counts so far that every mask update leaves, in [0, 1]: 1 never forgets, as in
            the paper; 0 starts again after each prune; between them old counts fade exponentially.
        metric: name of a logged metric, such as "accuracy": an epoch's counts are multiplied by its value
            at the end of the epoch, so that late epochs weigh more. None: all epochs weigh the same.
    """

    granularity = "neuron"

    def __init__(
        self, weighted=True, side="output", threshold=0.0, statistic="count", decay=1.0, metric=None
    ):
        for name, value, choices in (
            ("side", side, ("output", "input")),
            ("statistic", statistic, ("count", "sum")),
        ):
            if value not in choices:
                raise ValueError(f'{name} must be "{choices[0]}" or "{choices[1]}": received {value!r}.')
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
    def counts(self):
        return self.side

    def scores(self, kernel):
        rates = kernel.activations.firing_rate
        rates = kernel.per_neuron(rates) if self.side == "output" else kernel.per_input(rates)
        if self.weighted:
            return rates * np.abs(kernel.weights)
        return np.broadcast_to(rates, kernel.weights.shape)

    def get_config(self):
        names = ("weighted", "side", "threshold", "statistic", "decay", "metric")
        return {name: getattr(self, name) for name in names}
