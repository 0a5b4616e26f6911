"""What pruning in cycles found: rows, masks, the last model, a table, a CSV file and a figure."""

import csv
import dataclasses
import math

from tfap.activations.dead_neurons import DeadNeurons
from tfap.utils import plots, tables
from tfap.utils.plots import Line
from tfap.utils.statistics import Interval

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


class IterativePruning:
    """The cycles that were trained. Prints as a table.

    Attributes:
        rows: list of `Row`, cycle by cycle from 0.
        model: the plain model after the last cycle, pruned weights exactly zero, compiled like the given one.
    """

    def __init__(self, rows, masks, model):
        self.rows = list(rows)
        self.model = model
        self._masks = list(masks)

    def masks(self, cycle):
        """The masks that a cycle was trained with.

        Returns:
            `{layer path: uint8 array}`, 1 where a weight is alive; a dict by weight name where a layer has
            several.

        Raises:
            ValueError: there is no such cycle.
        """
        if cycle not in range(len(self.rows)):
            raise ValueError(f"There is no cycle {cycle!r}: there are 0 to {len(self.rows) - 1}.")
        return self._masks[cycle].arrays()

    def table(self):
        """A rich table, a line a cycle; `str()` prints it. Without `evaluate` it has the logged metrics."""
        rows = [self._figures(row) for row in self.rows]
        dead = [f"dead_{name}" for name in DEAD if self.rows[0].dead]
        columns = ["sparsity", "alive", *self._metrics(), *dead, *SECONDS]
        table = tables.table_of(["cycle"], [_heading(name) for name in columns])
        for row in rows:
            table.add_row(str(row["cycle"]), *(_text(name, row.get(name, math.nan)) for name in columns))
        return table

    def __str__(self):
        return tables.as_text(self.table())

    def to_csv(self, path):
        """Writes a line for each cycle; metrics of the training begin with "training_"."""
        rows = [row.to_dict() for row in self.rows]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def plot(self, metric=None):
        """A metric against sparsity, and on an axis of its own, if it is known, the dynamic dead-neuron rate.

        Args:
            metric: its name; None is the first that `evaluate` gave, or else that was logged.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: there is no such metric.
        """
        known = self._metrics()
        metric = known[0] if metric is None and known else metric
        if metric not in known:
            raise ValueError(f"There is no metric '{metric}'. There are {', '.join(known) or 'none'}.")
        kept = [1 - row.sparsity for row in self.rows]
        points = [Interval(self._figures(row).get(metric, math.nan), *[math.nan] * 2) for row in self.rows]
        line = Line(metric, kept, points)
        figure = plots.lines([line], None, "sparsity", metric, share=metric.endswith("accuracy"))
        plots.label_sparsity(figure, kept)
        if self.rows[0].dead:
            (axes,) = figure.axes
            self._draw_dead(axes.twinx(), kept)
        return figure

    def _draw_dead(self, axes, kept):
        rates = [row.dead.dynamic for row in self.rows]
        axes.plot(kept, rates, color="#666666", linestyle="--", marker=".")
        axes.set_ylabel("dynamic dead-neuron rate (dashed)")
        axes.set_ylim(bottom=0)
        axes.minorticks_off()

    def _metrics(self):
        """Their names, as `_figures` has them."""
        first = self.rows[0]
        return list(first.metrics or first.training)

    @staticmethod
    def _figures(row):
        return {**row.training, **row.to_dict()}


def _heading(name):
    return {"alive": "weights left", "dead_rate": "dead"}.get(name, name.removeprefix("dead_")).replace(
        "_", " "
    )


def _text(name, value):
    if name == "alive":
        return f"{value:,}"
    if name in SECONDS:
        return f"{value:.1f}"
    return f"{value:.2%}" if name == "sparsity" or name.startswith("dead_") else f"{value:.4g}"
