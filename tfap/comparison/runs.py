"""One run of a comparison: which it is, and what came out."""

import dataclasses

DENSE = "dense"
BEFORE_METRICS = ("method", "sparsity", "seed")
AFTER_METRICS = ("zeros", "weights", "weights_compacted", "flops_compacted", "fit_seconds")


@dataclasses.dataclass(frozen=True)
class Run:
    """Which run it is.

    Attributes:
        method: its name; "dense" is the training without pruning.
        sparsity: asked for, in (0, 1); 0.0 if dense.
        seed: whole number.

    >>> Run("magnitude", 0.9, 2).name
    'magnitude-0.9-2'
    """

    method: str
    sparsity: float
    seed: int

    @property
    def name(self):
        """Can be the name of a file."""
        return f"{self.method}-{self.sparsity!r}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of a finished run; see `Run` for the first three attributes.

    Attributes:
        metrics: name to number: what `evaluate` gave.
        zeros: share of all kernel weights (weights of at least two axes) of the plain model that are
            exactly 0: the same denominator for all methods.
        weights: of the plain model, biases and moving averages included.
        weights_compacted: of what `tfap.compact` makes of it.
        flops_compacted: of one sample through that; see `tfap.flops`. None if they are not known.
        fit_seconds: that `fit` took. Two rows that differ in nothing else are equal.
    """

    method: str
    sparsity: float
    seed: int
    metrics: dict[str, float]
    zeros: float
    weights: int
    weights_compacted: int
    flops_compacted: int | None
    fit_seconds: float = dataclasses.field(compare=False)

    @property
    def run(self):
        return Run(self.method, self.sparsity, self.seed)

    def to_dict(self):
        """The figures by name, flat, in the order of the CSV file's columns."""
        flat = {name: getattr(self, name) for name in BEFORE_METRICS} | self.metrics
        return flat | {name: getattr(self, name) for name in AFTER_METRICS}


def check_metric_names(names):
    """Raises ValueError where a metric has the name of another figure."""
    taken = sorted({*BEFORE_METRICS, *AFTER_METRICS} & set(names))
    if taken:
        raise ValueError(f"evaluate names a metric like another column: {', '.join(taken)}.")
