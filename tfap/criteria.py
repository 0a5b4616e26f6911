"""Saliency criteria: arrays in, scores out. The weights with the lowest scores are pruned first."""

import numpy as np

from tfap import keras_compat, serialization


class Criterion:
    """Base class: a criterion of your own overrides `scores` and, if it has settings, `get_config`.

    Attributes:
        counts: "output" or "input": which neurons' activations it needs counted; None if none.
        threshold: an activation above it counts as firing.
        statistic: "count" how often neurons fire, or "sum" their activations above the threshold.
        decay: share of the counts so far that every mask update leaves; 1 never forgets.
        metric: name of the logged metric by which an epoch's counts are multiplied, or None.
        granularity: what it prunes unless told otherwise, "weight" or "neuron".

    >>> class RandomScores(Criterion):
    ...     def scores(self, kernel):
    ...         return np.random.default_rng(0).random(kernel.weights.shape)
    """

    counts = None
    threshold = 0.0
    statistic = "count"
    decay = 1.0
    metric = None
    granularity = "weight"

    @property
    def forgets(self):
        """True if what it sees is not simply all that has been counted."""
        return self.decay != 1.0 or self.metric is not None

    def scores(self, kernel):
        """Scores of one `tfap.kernels.Kernel`.

        Returns:
            A finite array of the shape of `kernel.weights`; comparable between layers if it is to be
            used with `scope="global"`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scores(kernel).")

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


@keras_compat.register
class Magnitude(Criterion):
    """The absolute weight, as in tfmot's `prune_low_magnitude`."""

    def scores(self, kernel):
        return np.abs(kernel.weights)


@keras_compat.register
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
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1]: received {decay}.")
        self.weighted = bool(weighted)
        self.side = side
        self.threshold = float(threshold)
        self.statistic = statistic
        self.decay = float(decay)
        self.metric = metric

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


_BUILT_IN = {keras_compat.snake_case(cls.__name__): cls for cls in (ActivationCount, Magnitude)}


def get(criterion):
    """A criterion from an object, a name or a saved config, as Keras's `get` functions do.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a criterion nor a name.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, dict):
        return serialization.deserialize(criterion, {})
    if isinstance(criterion, str):
        if criterion not in _BUILT_IN:
            raise ValueError(f"Unknown criterion '{criterion}'. Known: {', '.join(sorted(_BUILT_IN))}.")
        return _BUILT_IN[criterion]()
    raise TypeError(
        "criterion must be a tfap.Criterion, such as tfap.ActivationCount(), or the name of one: "
        f"received {criterion!r} of type {type(criterion).__name__}."
    )
