"""The figures of a comparison, from its rows: `{(method, sparsity): rows}`."""

import itertools
import operator
import statistics

from tfap import paired, plots
from tfap.comparison.runs import DENSE
from tfap.plots import Line

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
    return paired.interval([row.metrics[metric] for row in rows])
