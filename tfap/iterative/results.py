"""The results of iterative pruning: rows, masks, the last model, a table, a CSV file, and a figure."""

import csv
import dataclasses
import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.table

from tfap.activations.dead_neurons import DeadNeurons
from tfap.iterative.state import PackedMasks
from tfap.keras_compat.types import Model
from tfap.utils import plots, tables
from tfap.utils.plots import Line
from tfap.utils.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE_METRICS = ("cycle", "sparsity", "alive")
_DEAD_RATES = ("rate", "static", "dynamic")
_SECONDS = ("fit_seconds", "evaluate_seconds", "other_seconds")
_TYPES = {"cycle": int, "sparsity": float, "alive": int, "metrics": dict, "training": dict}


def check_metric_names(metrics: Iterable[str], training: Iterable[str], dead: DeadNeurons | None) -> None:
    """Raises ValueError if a metric of `evaluate` has the name of another column of the CSV file."""
    others = [*_BEFORE_METRICS, *(f"training_{name}" for name in training), *_SECONDS]
    others += [f"dead_{name}" for name in _DEAD_RATES] if dead else []
    taken = [name for name in metrics if name in others]
    if taken:
        raise ValueError(
            f"evaluate names a metric like another column: {', '.join(taken)}. Expected names that are not "
            f"among {', '.join(others)}: rename it."
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one cycle. Rows are equal if they differ only in their seconds.

    Attributes:
        cycle: Integer. Number of the cycle. Cycle 0 trains the dense model.
        sparsity: Float in [0, 1). Pruned fraction of the prunable weights.
        alive: Integer. Number of prunable weights that are kept.
        metrics: Dict of name to float: the result of `evaluate`.
        training: Dict of name to float: the logs of the last epoch, if `fit` returned a History.
        dead: `DeadNeurons` of the model on `data`, or None without data.
        fit_seconds: Float. Time in `fit`.
        evaluate_seconds: Float. Time in `evaluate` and for counting dead neurons.
        other_seconds: Float. Time for everything else: copying, seeding, mask update, and files.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the values by name as a flat dict, in the order of the columns of the CSV file."""
        flat = {name: getattr(self, name) for name in _BEFORE_METRICS} | self.metrics
        flat |= {f"training_{name}": value for name, value in self.training.items()}
        if self.dead is not None:
            flat |= {f"dead_{name}": getattr(self.dead, name) for name in _DEAD_RATES}
        return flat | {name: getattr(self, name) for name in _SECONDS}

    @classmethod
    def from_file(cls, fields: dict[str, Any]) -> "Row":
        """Makes a row from the result of `dataclasses.asdict` after a round trip through JSON.

        Raises:
            TypeError: If a field is missing or has the wrong type.
            KeyError: If the field `dead` is missing.
        """
        fields = dict(fields)
        dead = fields.pop("dead")
        row = cls(**fields, dead=None if dead is None else DeadNeurons(**dead))
        for name, expected in _TYPES.items():
            if not isinstance(getattr(row, name), expected):
                raise TypeError(f"{name} is not of type {expected.__name__}")
        return row


class IterativePruning:
    """The result of `tfap.prune_iteratively`. Prints as a table.

    Args:
        rows: Iterable of `Row`, one per cycle.
        masks: Iterable of `PackedMasks`, one per cycle.
        model: The model after the last cycle.

    Attributes:
        rows: List of `Row`, one per cycle, from cycle 0.
        model: The model after the last cycle, without wrappers, compiled alike. Its pruned weights are zero.
    """

    def __init__(self, rows: Iterable[Row], masks: Iterable[PackedMasks], model: Model) -> None:
        self.rows = list(rows)
        self.model = model
        self._masks = list(masks)

    def masks(self, cycle: int) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
        """Returns the masks of a cycle during its training.

        Args:
            cycle: Integer. Number of the cycle, from 0.

        Returns:
            Dict of layer path to uint8 array, 1 where a weight is kept. For a layer with several prunable
            weights, a dict of weight name to array.

        Raises:
            ValueError: If there is no such cycle.
        """
        if cycle not in range(len(self.rows)):
            raise ValueError(f"There is no cycle {cycle!r}: the cycles are 0 to {len(self.rows) - 1}.")
        return self._masks[cycle].arrays()

    def table(self) -> rich.table.Table:
        """Returns a rich table with one line per cycle. `str()` gives it as text.

        It shows the metrics of `evaluate` or, without `evaluate`, those that training logged.
        """
        rows = [self._values(row) for row in self.rows]
        dead = [f"dead_{name}" for name in _DEAD_RATES if self.rows[0].dead]
        columns = ["sparsity", "alive", *self._metrics(), *dead, *_SECONDS]
        table = tables.table_of(["cycle"], [_heading(name) for name in columns])
        for row in rows:
            table.add_row(str(row["cycle"]), *(_text(name, row.get(name, math.nan)) for name in columns))
        return table

    def __str__(self) -> str:
        return tables.as_text(self.table())

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes one line per cycle to a CSV file. Names of training metrics begin with "training_".

        Args:
            path: Path of the file.
        """
        rows = [row.to_dict() for row in self.rows]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def plot(self, metric: str | None = None) -> "Figure":
        """Plots a metric and, if known, the dynamic dead-neuron rate against sparsity.

        Args:
            metric: Name of the metric. None means the first metric of `evaluate` or, without `evaluate`, the
                first that training logged.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: If there is no such metric.
        """
        known = self._metrics()
        metric = known[0] if metric is None and known else metric
        if metric is None or metric not in known:
            raise ValueError(f"There is no metric '{metric}'. The metrics are: {', '.join(known) or 'none'}.")
        kept = [1 - row.sparsity for row in self.rows]
        points = [Interval(self._values(row).get(metric, math.nan), *[math.nan] * 2) for row in self.rows]
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
        """Names of the metrics in `_values`."""
        first = self.rows[0]
        return list(first.metrics or first.training)

    @staticmethod
    def _values(row):
        return {**row.training, **row.to_dict()}


def _heading(name):
    return {"alive": "weights kept", "dead_rate": "dead"}.get(name, name.removeprefix("dead_")).replace(
        "_", " "
    )


def _text(name, value):
    if name == "alive":
        return f"{value:,}"
    if name in _SECONDS:
        return f"{value:.1f}"
    return f"{value:.2%}" if name == "sparsity" or name.startswith("dead_") else f"{value:.4g}"
