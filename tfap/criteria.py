"""Saliency criteria: arrays in, scores out. The weights with the lowest scores are pruned first."""

import numpy as np

from tfap import keras_compat, serialization


class Criterion:
    """Base class: a criterion of your own overrides `scores` and, if it has settings, `get_config`.

    Attributes:
        counts: "output" or "input": which neurons' activations it needs counted; None if none.
        threshold: an activation above it counts as firing.
        granularity: what it prunes unless told otherwise, "weight" or "neuron".

    >>> class RandomScores(Criterion):
    ...     def scores(self, kernel):
    ...         return np.random.default_rng(0).random(kernel.weights.shape)
    """

    counts = None
    threshold = 0.0
    granularity = "weight"

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
    """

    granularity = "neuron"

    def __init__(self, weighted=True, side="output", threshold=0.0):
        if side not in ("output", "input"):
            raise ValueError(f'side must be "output" or "input": received {side!r}.')
        self.weighted = bool(weighted)
        self.side = side
        self.threshold = float(threshold)

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
        return {"weighted": self.weighted, "side": self.side, "threshold": self.threshold}


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
