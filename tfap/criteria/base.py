"""What every criterion is: scores of a kernel's weights, and what they are computed from."""

from tfap import keras_compat
from tfap.keras_compat.registry import deserialize


class Criterion:
    """Base class: a criterion of your own overrides `scores` and, if it has settings, `get_config`.

    Attributes:
        counts: "output" or "input": which neurons' activations it needs counted; None if none.
        threshold: an activation above it counts as firing.
        statistic: "count" how often neurons fire, or "sum" their activations above the threshold.
        decay: share of the counts so far that every mask update leaves; 1 never forgets.
        metric: name of the logged metric by which an epoch's counts are multiplied, or None.
        granularity: what it prunes unless told otherwise, "weight" or "neuron".
        needs: names of the fields of `tfap.Kernel` that are filled in only for criteria that read
            them: "gradients", "input_norms", "neuron_norms", "previous", "updates".
        granularities: the granularities that it can prune.

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
    needs = frozenset()
    granularities = ("weight", "neuron")

    @property
    def forgets(self):
        """True if what it sees is not simply all that has been counted."""
        return self.decay != 1.0 or self.metric is not None

    def scores(self, kernel):
        """Scores of one `tfap.Kernel`.

        Returns:
            A finite array of the shape of `kernel.weights`; comparable between layers if it is to be
            used with `scope="global"`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define scores(kernel).")

    def new_masks(self, scored, sparsity, pattern):
        """Chooses what an update prunes; override it to choose in another way than by `scores` alone.

        Args:
            scored: Kernels that are ranked together, in layer order. Each has a `kernel`, a `tfap.Kernel`,
                and its `scores`.
            sparsity: A float: the fraction that is pruned afterwards, what was pruned before included.
            pattern: The shape that is pruned. `pattern.new_masks(scored, sparsity)` prunes the lowest scores.

        Returns:
            One uint8 mask per kernel, 1 where a weight is kept. A pruned weight must stay pruned.
        """
        return pattern.new_masks(scored, sparsity)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


_BUILT_IN = {}


def built_in(cls):
    """Decorates a criterion of tfap's own: registered with both Kerases, and known by its class's name."""
    _BUILT_IN[keras_compat.snake_case(cls.__name__)] = keras_compat.register(cls)
    return cls


def get(criterion):
    """A criterion from an object, a name or a saved config, as Keras's `get` functions do.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a criterion nor a name.

    >>> get("magnitude")
    Magnitude()
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, dict):
        return deserialize(criterion, {})
    if isinstance(criterion, str):
        if criterion not in _BUILT_IN:
            raise ValueError(f"Unknown criterion '{criterion}'. Known: {', '.join(sorted(_BUILT_IN))}.")
        return _BUILT_IN[criterion]()
    raise TypeError(
        "criterion must be a tfap.Criterion, such as tfap.ActivationCount(), or the name of one: "
        f"received {criterion!r} of type {type(criterion).__name__}."
    )
