"""The results of a comparison: rows, paired differences, a table, a CSV file, and figures."""

import csv
import dataclasses
import itertools
import math
import operator
import os
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

import rich.table

from tfap.comparison.runs import AFTER_METRICS, BEFORE_METRICS, DENSE, Row, Run, Store
from tfap.utils import plots, tables
from tfap.utils.plots import Line
from tfap.utils.statistics import Interval, interval, smallest_detectable_effect

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between two methods, paired by seed, in the unit of the metric.

    Attributes:
        method: String. Name of the method.
        sparsity: Float. Requested sparsity.
        pairs: Integer. Number of pairs. The runs of a pair have the same seed and, except for "dense", the
            same sparsity.
        interval: `Interval`: mean of the differences (method - other) with its 95% CI (Student's t).
        smallest_detectable_effect: Float. A true difference of this size is significant at 5% with a
            probability of 80%.
    """

    method: str
    sparsity: float
    pairs: int
    interval: Interval
    smallest_detectable_effect: float


class Comparison:
    """The result of `tfap.compare`. Prints as a table of the main metric.

    Args:
        rows: Iterable of `Row`.

    Attributes:
        rows: List of `Row`, "dense" first, then method by method.
        metrics: List of strings. Names of the metrics, the main metric first.

    Raises:
        ValueError: If there are no rows, rows have different metrics, or two rows are of the same run.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        if not self.rows:
            raise ValueError("A comparison needs rows.")
        self.metrics = list(self.rows[0].metrics)
        for row in self.rows:
            if list(row.metrics) != self.metrics:
                raise ValueError(
                    f"The runs have different metrics: {row.run.name} has {', '.join(row.metrics)}, "
                    f"{self.rows[0].run.name} {', '.join(self.metrics)}."
                )
        if len({row.run for row in self.rows}) < len(self.rows):
            raise ValueError("Two rows are of the same method, sparsity and seed.")

    # -- numbers -----------------------------------------------------------------------------------

    def cells(self) -> dict[tuple[str, float], list[Row]]:
        """Groups the rows: a dict of `(method, sparsity)` to rows, in the order of the rows."""
        cells: dict[tuple[str, float], list[Row]] = {}
        for row in self.rows:
            cells.setdefault((row.method, row.sparsity), []).append(row)
        return cells

    def differences(self, metric: str | None = None, against: str = DENSE) -> list[Difference]:
        """Computes the difference of each method to another method at each sparsity, paired by seed.

        Args:
            metric: Name of the metric. None means the main metric.
            against: Name of the other method: "dense" or a method that was compared.

        Returns:
            List of `Difference`, in the order of the rows.

        Raises:
            ValueError: If there is no such metric or method.
        """
        metric = self._metric(metric)
        if against not in {row.method for row in self.rows}:
            raise ValueError(f"There are no runs of the method '{against}'.")
        return [
            self._difference(rows, metric, against)
            for (method, _), rows in self.cells().items()
            if method != against
        ]

    def _difference(self, rows, metric, against):
        baseline = {row.run: row.metrics[metric] for row in self.rows if row.method == against}
        differences = []
        for row in rows:
            paired_run = Run(against, 0.0 if against == DENSE else row.sparsity, row.seed)
            if paired_run in baseline:
                differences.append(row.metrics[metric] - baseline[paired_run])
        return Difference(
            rows[0].method,
            rows[0].sparsity,
            len(differences),
            interval(differences),
            smallest_detectable_effect(differences),
        )

    def _metric(self, metric):
        if metric is None:
            return self.metrics[0]
        if metric not in self.metrics:
            raise ValueError(f"There is no metric '{metric}'. The metrics are: {', '.join(self.metrics)}.")
        return metric

    # -- table and figures -------------------------------------------------------------------------

    def table(self, metric: str | None = None, against: str = DENSE) -> rich.table.Table:
        """Returns a rich table with one line per method and sparsity. `str()` gives the default one as text.

        Columns, as means over the seeds: the metric, its paired difference to the method `against` with the
        95% CI, the smallest detectable difference, the fraction of zeros, and weights and FLOPs of the
        compacted model. "-" means unknown, such as the CI of one seed. "accuracy" is in percent.

        Args:
            metric: Name of the metric. None means the main metric.
            against: Name of the method that the others are compared with.

        Returns:
            A `rich.table.Table`.

        Raises:
            ValueError: If there is no such metric or method.
        """
        metric = self._metric(metric)
        differences = {
            (difference.method, difference.sparsity): difference
            for difference in self.differences(metric, against)
        }
        table = tables.table_of(
            ["method"],
            [
                *("sparsity", "seeds", metric, f"difference to {against}", "detectable"),
                *("zeros", "weights left", "FLOPs left"),
            ],
        )
        for (method, sparsity), rows in self.cells().items():
            table.add_row(
                method,
                f"{sparsity:.4g}",
                str(len(rows)),
                _value(metric, statistics.fmean(row.metrics[metric] for row in rows)),
                *_difference_cells(metric, differences.get((method, sparsity))),
                f"{statistics.fmean(row.zeros for row in rows):.1%}",
                _mean_count(row.weights_compacted for row in rows),
                _mean_count(row.flops_compacted for row in rows),
            )
        return table

    def __str__(self) -> str:
        return tables.as_text(self.table())

    def plot_sparsity(self, metric: str | None = None) -> "Figure":
        """Plots a metric against the requested sparsity: one line per method, and "dense" as a band.

        Bars and band are 95% CIs of the mean over the seeds. A bar may extend beyond the figure.

        Args:
            metric: Name of the metric. None means the main metric.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: If there is no such metric.
        """
        return against_sparsity(self.cells(), self._metric(metric))

    def plot_size(self, metric: str | None = None) -> "Figure":
        """Plots a metric against the number of weights after `tfap.compact`, as in `plot_sparsity`.

        Args:
            metric: Name of the metric. None means the main metric.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: If there is no such metric.
        """
        return against_size(self.cells(), self._metric(metric))

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def from_directory(cls, path: str | os.PathLike) -> "Comparison":
        """Reads all finished runs in the `directory` of `tfap.compare`, methods in alphabetical order.

        Args:
            path: Path of the directory.

        Returns:
            A `Comparison`.

        Raises:
            FileNotFoundError: If there are no finished runs.
            ValueError: If the directory contains another JSON file.
        """
        rows = Store(path).read_all()
        return cls(sorted(rows, key=lambda row: (row.method != DENSE, *vars(row.run).values())))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes one line per row to a CSV file. Unknown values are empty.

        Args:
            path: Path of the file.
        """
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0].to_dict()))
            writer.writeheader()
            writer.writerows(row.to_dict() for row in self.rows)

    @classmethod
    def from_csv(cls, path: str | os.PathLike) -> "Comparison":
        """Reads a CSV file from `to_csv`.

        Args:
            path: Path of the file.

        Returns:
            A `Comparison`.

        Raises:
            ValueError: If the file was not written by `to_csv`.
        """
        with open(path, newline="") as file:
            try:
                return cls([_row(line) for line in csv.DictReader(file)])
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path} was not written by Comparison.to_csv: {error!r}.") from error


def _row(line):
    columns = {name: line.pop(name) for name in (*BEFORE_METRICS, *AFTER_METRICS)}
    flops = columns["flops_compacted"]
    return Row(
        columns["method"],
        float(columns["sparsity"]),
        int(columns["seed"]),
        {name: float(value) for name, value in line.items()},
        float(columns["zeros"]),
        int(columns["weights"]),
        int(columns["weights_compacted"]),
        int(flops) if flops else None,
        float(columns["fit_seconds"]),
    )


# -- table cells -----------------------------------------------------------------------------------


def _value(metric, number):
    return f"{number:.2%}" if metric == "accuracy" else f"{number:.4g}"


def _signed(metric):
    return "{:+.2%}".format if metric == "accuracy" else "{:+.3g}".format


def _difference_cells(metric, difference):
    if difference is None:
        return "-", "-"
    effect = difference.smallest_detectable_effect
    return difference.interval.text(_signed(metric)), "-" if math.isnan(effect) else _value(metric, effect)


def _mean_count(counts):
    counts = list(counts)
    return "-" if None in counts else f"{statistics.fmean(counts):,.0f}"


# -- figures ---------------------------------------------------------------------------------------

_SPREAD = 1.18  # ratio of the x of the last line to that of the first, so that bars do not overlap


def against_sparsity(cells: dict[tuple[str, float], list[Row]], metric: str) -> "Figure":
    """Plots a metric against the requested sparsity, on a logarithmic axis of the kept fraction."""
    kept = sorted({1 - sparsity for method, sparsity in cells if method != DENSE})
    nearest = min((more / less for less, more in itertools.pairwise(kept)), default=_SPREAD)
    figure = plots.lines(
        _lines(cells, metric, lambda rows: 1 - rows[0].sparsity),
        _band(cells, metric),
        "requested sparsity",
        _label(metric),
        share=metric == "accuracy",
        spread=1 / min(_SPREAD, nearest**0.5),  # the axis is inverted
    )
    plots.label_sparsity(figure, kept)
    return figure


def against_size(cells: dict[tuple[str, float], list[Row]], metric: str) -> "Figure":
    """Plots a metric against the number of weights of the compacted model."""
    return plots.lines(
        _lines(cells, metric, lambda rows: statistics.fmean(row.weights_compacted for row in rows)),
        _band(cells, metric),
        "weights after tfap.compact",
        _label(metric),
        share=metric == "accuracy",
    )


def _label(metric):
    return f"{metric} (mean with 95% CI)"


def _lines(cells, metric, x_of):
    points = {}
    for (method, _), rows in cells.items():
        if method != DENSE:
            points.setdefault(method, []).append((x_of(rows), _interval(rows, metric)))
    by_x = operator.itemgetter(0)
    return [Line(method, *zip(*sorted(pairs, key=by_x))) for method, pairs in points.items()]


def _band(cells, metric):
    """The line of "dense", or None without its runs."""
    rows = cells.get((DENSE, 0.0))
    return Line(DENSE, (1.0,), (_interval(rows, metric),)) if rows else None


def _interval(rows, metric):
    return interval([row.metrics[metric] for row in rows])
