"""What a comparison found: rows, differences with their intervals, a table, a CSV file and figures."""

import csv
import dataclasses
import itertools
import math
import operator
import statistics

from tfap.comparison.runs import AFTER_METRICS, BEFORE_METRICS, DENSE, Row, Run, Store
from tfap.utils import plots, tables
from tfap.utils.plots import Line
from tfap.utils.statistics import Interval, interval, smallest_detectable_effect


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a method is from another one, in the unit of the metric.

    Attributes:
        method, sparsity: which runs.
        pairs: how many seeds both methods have; with "dense" the seed alone makes the pair, else sparsity
            and seed.
        interval: mean of the differences (method - other) with its 95% interval, Student's t.
        smallest_detectable_effect: a true difference of this size is found with a probability of 80%
            by so many pairs with this scatter; see `tfap.utils.statistics`.
    """

    method: str
    sparsity: float
    pairs: int
    interval: Interval
    smallest_detectable_effect: float


class Comparison:
    """The rows of a comparison. Prints as a table of the main metric.

    Attributes:
        rows: list of `Row`, "dense" first, then method by method.
        metrics: their names; the first is the main one.

    Raises:
        ValueError: there are no rows, not all have the same metrics, or two are of one run.
    """

    def __init__(self, rows):
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

    # -- as numbers --------------------------------------------------------------------------------

    def cells(self):
        """`{(method, sparsity): rows}` in the order of the rows."""
        found = {}
        for row in self.rows:
            found.setdefault((row.method, row.sparsity), []).append(row)
        return found

    def differences(self, metric=None, against=DENSE):
        """How far each method is from another one at each sparsity, seed by seed.

        Args:
            metric: its name; None is the main one.
            against: the other method, "dense" or any that was compared.

        Returns:
            List of `Difference`, in the order of the rows.

        Raises:
            ValueError: there is no such metric or method.
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
        base = {row.run: row.metrics[metric] for row in self.rows if row.method == against}
        pairs = []
        for row in rows:
            twin = Run(against, 0.0 if against == DENSE else row.sparsity, row.seed)
            if twin in base:
                pairs.append(row.metrics[metric] - base[twin])
        return Difference(
            rows[0].method,
            rows[0].sparsity,
            len(pairs),
            interval(pairs),
            smallest_detectable_effect(pairs),
        )

    def _metric(self, metric):
        if metric is None:
            return self.metrics[0]
        if metric not in self.metrics:
            raise ValueError(f"There is no metric '{metric}'. There are {', '.join(self.metrics)}.")
        return metric

    # -- to look at --------------------------------------------------------------------------------

    def table(self, metric=None, against=DENSE):
        """A rich table of each method at each sparsity, means over the seeds; `str()` prints the default one.

        Columns: the metric; its paired difference to the method `against` with the 95% interval; the
        smallest difference that so many seeds can show; the share of zeros; weights and FLOPs of the
        compacted model. "-" is what one seed cannot tell. "accuracy" is written in percent.

        Args:
            metric: its name; None is the main one.
            against: the method that the others are compared with.

        Raises:
            ValueError: there is no such metric or method.
        """
        metric = self._metric(metric)
        differences = {(one.method, one.sparsity): one for one in self.differences(metric, against)}
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
                _whole(row.weights_compacted for row in rows),
                _whole(row.flops_compacted for row in rows),
            )
        return table

    def __str__(self):
        return tables.as_text(self.table())

    def plot_sparsity(self, metric=None):
        """A metric against the sparsity asked for: a line a method, "dense" as a band over the whole width.

        Bars and band are 95% intervals of the mean over the seeds. A bar may leave the figure.

        Args:
            metric: its name; None is the main one.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: there is no such metric.
        """
        return against_sparsity(self.cells(), self._metric(metric))

    def plot_size(self, metric=None):
        """A metric against the weights that `tfap.compact` leaves; else like `plot_sparsity`.

        Args:
            metric: its name; None is the main one.
        """
        return against_size(self.cells(), self._metric(metric))

    # -- files -------------------------------------------------------------------------------------

    @classmethod
    def from_directory(cls, path):
        """All finished runs in the `directory` of a `tfap.compare`, methods in the order of the alphabet.

        Raises:
            FileNotFoundError: there are none. ValueError: another JSON file is among them.
        """
        rows = Store(path).read_all()
        return cls(sorted(rows, key=lambda row: (row.method != DENSE, *vars(row.run).values())))

    def to_csv(self, path):
        """Writes a line for each row; what is not known is empty."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0].to_dict()))
            writer.writeheader()
            writer.writerows(row.to_dict() for row in self.rows)

    @classmethod
    def from_csv(cls, path):
        """What `to_csv` wrote.

        Raises:
            ValueError: the file is another one.
        """
        with open(path, newline="") as file:
            try:
                return cls([_row(line) for line in csv.DictReader(file)])
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path} was not written by Comparison.to_csv: {error!r}.") from error


def _row(line):
    known = {name: line.pop(name) for name in (*BEFORE_METRICS, *AFTER_METRICS)}
    flops = known["flops_compacted"]
    return Row(
        known["method"],
        float(known["sparsity"]),
        int(known["seed"]),
        {name: float(value) for name, value in line.items()},
        float(known["zeros"]),
        int(known["weights"]),
        int(known["weights_compacted"]),
        int(flops) if flops else None,
        float(known["fit_seconds"]),
    )


# -- cells of the table ----------------------------------------------------------------------------


def _value(metric, number):
    return f"{number:.2%}" if metric == "accuracy" else f"{number:.4g}"


def _signed(metric):
    return "{:+.2%}".format if metric == "accuracy" else "{:+.3g}".format


def _difference_cells(metric, difference):
    if difference is None:
        return "-", "-"
    least = difference.smallest_detectable_effect
    return difference.interval.text(_signed(metric)), "-" if math.isnan(least) else _value(metric, least)


def _whole(numbers):
    numbers = list(numbers)
    return "-" if None in numbers else f"{statistics.fmean(numbers):,.0f}"


_SPREAD = 1.18


def against_sparsity(cells, metric):
    """A metric against the share of weights asked to be kept, in logarithmic steps, labelled as sparsity."""
    kept = sorted({1 - sparsity for method, sparsity in cells if method != DENSE})
    nearest = min((more / less for less, more in itertools.pairwise(kept)), default=_SPREAD)
    figure = plots.lines(
        _lines(cells, metric, lambda rows: 1 - rows[0].sparsity),
        _band(cells, metric),
        "sparsity asked for",
        _label(metric),
        share=metric == "accuracy",
        spread=1 / min(_SPREAD, nearest**0.5),  # the axis runs from right to left
    )
    plots.label_sparsity(figure, kept)
    return figure


def against_size(cells, metric):
    """A metric against the weights of the compacted model."""
    return plots.lines(
        _lines(cells, metric, lambda rows: statistics.fmean(row.weights_compacted for row in rows)),
        _band(cells, metric),
        "weights left by tfap.compact",
        _label(metric),
        share=metric == "accuracy",
    )


def _label(metric):
    return f"{metric} (mean with 95% interval)"


def _lines(cells, metric, place):
    points = {}
    for (method, _), rows in cells.items():
        if method != DENSE:
            points.setdefault(method, []).append((place(rows), _interval(rows, metric)))
    by_place = operator.itemgetter(0)
    return [Line(method, *zip(*sorted(pairs, key=by_place))) for method, pairs in points.items()]


def _band(cells, metric):
    """The line of "dense"; None where its runs are missing."""
    rows = cells.get((DENSE, 0.0))
    return Line(DENSE, (1.0,), (_interval(rows, metric),)) if rows else None


def _interval(rows, metric):
    return interval([row.metrics[metric] for row in rows])
