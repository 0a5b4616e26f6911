"""What came out of one cycle."""

import dataclasses

from tfap.dead_neuron_reports import DeadNeurons

BEFORE_METRICS = ("cycle", "sparsity", "alive")
DEAD = ("rate", "static", "dynamic")
SECONDS = ("fit_seconds", "evaluate_seconds", "other_seconds")
_KINDS = {"cycle": int, "sparsity": float, "alive": int, "metrics": dict, "training": dict}


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of a finished cycle. Two rows that differ in nothing but seconds are equal.

    Attributes:
        cycle: from 0, the training without pruning.
        sparsity: pruned share of the prunable weights, in [0, 1).
        alive: how many of them are left.
        metrics: name to number: what `evaluate` gave.
        training: name to number: what the last epoch of the History logged that `fit` returned.
        dead: `DeadNeurons` of the net on `data`; None without data.
        fit_seconds: in `fit`.
        evaluate_seconds: in `evaluate` and for the dead neurons.
        other_seconds: for everything else: copying, seeding, the mask update, files.
    """

    cycle: int
    sparsity: float
    alive: int
    metrics: dict[str, float]
    training: dict[str, float]
    dead: DeadNeurons | None
    fit_seconds: float = dataclasses.field(compare=False)
    evaluate_seconds: float = dataclasses.field(compare=False)
    other_seconds: float = dataclasses.field(default=0.0, compare=False)

    def to_dict(self):
        """The figures by name, flat, in the order of the CSV file's columns."""
        flat = {name: getattr(self, name) for name in BEFORE_METRICS} | self.metrics
        flat |= {f"training_{name}": value for name, value in self.training.items()}
        if self.dead is not None:
            flat |= {f"dead_{name}": getattr(self.dead, name) for name in DEAD}
        return flat | {name: getattr(self, name) for name in SECONDS}

    @classmethod
    def from_file(cls, found):
        """The row of `dataclasses.asdict`, as JSON has it.

        Raises:
            TypeError, KeyError: it is none.
        """
        found = dict(found)
        dead = found.pop("dead")
        row = cls(**found, dead=None if dead is None else DeadNeurons(**dead))
        for name, kind in _KINDS.items():
            if not isinstance(getattr(row, name), kind):
                raise TypeError(f"{name} is no {kind.__name__}")
        return row
