"""Line plots with 95% confidence intervals, and heat maps.

The functions return figures. They open no window and do not change the state of pyplot.
"""

import collections
import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from tfap.utils.statistics import Interval

if TYPE_CHECKING:
    import matplotlib.figure

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B1E", "#8A8A00")
_MARKERS = "osD^vP*X"
_BAND_COLOR = "#666666"
_ACCURACY_TICKS = (
    *(0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9),
    *(0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999),
)
_FEWEST_TICKS = 3
_MOST_SPARSITIES = 7
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Line:
    """Holds the points of one line.

    Attributes:
        name: String. Name in the legend.
        x: Sequence of floats > 0. Positions of the points.
        intervals: Sequence of `tfap.utils.statistics.Interval`s, one per position.
    """

    name: str
    x: collections.abc.Sequence[float]
    intervals: collections.abc.Sequence[Interval]


def lines(
    lines: collections.abc.Sequence[Line],
    band: Line | None,
    xlabel: str,
    ylabel: str,
    share: bool = False,
    spread: float = 1.0,
) -> "matplotlib.figure.Figure":
    """Plots lines with error bars over a logarithmic x axis, with a legend beside the plot.

    The y axis includes every mean and the band. It may cut error bars, because the bar of one failed method
    would otherwise compress the other lines.

    Args:
        lines: List of `Line`s.
        band: A `Line` of one point to compare the others with. It spans the whole width. None for no band.
        xlabel: String. Label of the x axis.
        ylabel: String. Label of the y axis.
        share: Boolean. Whether y is an accuracy in [0, 1], shown in percent on a logit axis: 98% and 99% are
            as far apart as 50% and 67%. The axis is linear if a value is 0 or 1, or if the values are close.
        spread: Float >= 1. Factor between the x of the last line and that of the first, so that the error
            bars of lines with the same x do not overlap.

    Returns:
        A `matplotlib.figure.Figure`. `savefig(path)` writes it, and notebooks show it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = _matplotlib().figure.Figure(figsize=(8.5, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel=xlabel, ylabel=ylabel)
    bands = [band] if band else []
    for line in bands:
        _draw_band(axes, line)
    for index, line in enumerate(lines):
        _draw_line(axes, line, index, x_factor=spread ** (index / max(1, len(lines) - 1) - 0.5))
    means = [interval.mean for line in [*lines, *bands] for interval in line.intervals]
    band_limits = [end for line in bands for each in line.intervals for end in (each.low, each.high)]
    _set_scales(axes, means, band_limits, share)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def label_sparsity(figure: "matplotlib.figure.Figure", kept: collections.abc.Sequence[float]) -> None:
    """Relabels an x axis of kept fractions as sparsity, which increases to the right.

    Args:
        figure: A figure of `lines`, whose x is the fraction of kept weights.
        kept: Sequence of the fractions, sorted, in (0, 1]. At most 7 of them get a tick.
    """
    (axes,) = figure.axes
    last, ticks = len(kept) - 1, min(len(kept), _MOST_SPARSITIES)
    shown = [kept[round(number * last / max(1, ticks - 1))] for number in range(ticks)]
    axes.set_xticks(shown, [f"{100 * (1 - fraction):.4g}%" for fraction in shown])
    axes.xaxis.set_minor_locator(_matplotlib().ticker.NullLocator())
    axes.invert_xaxis()


def heat_map(
    values: np.ndarray,
    rows: collections.abc.Sequence[str],
    columns: collections.abc.Sequence[str],
    xlabel: str,
    label: str,
) -> "matplotlib.figure.Figure":
    """Plots a table as colors, with the number in each cell.

    Args:
        values: Array, shape `(rows, columns)`.
        rows: List of strings. Names of the rows, which are shortened if they are long.
        columns: List of strings. Names of the columns.
        xlabel: String. What the columns are.
        label: String. What the colors are.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    size = (3.5 + 0.62 * len(columns), 1.6 + 0.32 * len(rows))
    figure = _matplotlib().figure.Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel)
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), [_shortened(name) for name in rows])
    middle = (float(np.nanmin(values)) + float(np.nanmax(values))) / 2
    for row, column in np.ndindex(*values.shape):
        value = float(values[row, column])
        color = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, label=label)
    return figure


def _shortened(name):
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _draw_band(axes, band):
    (interval,) = band.intervals
    axes.axhline(interval.mean, color=_BAND_COLOR, linestyle="--", linewidth=1, label=band.name, zorder=1)
    if not math.isnan(interval.low):
        axes.axhspan(interval.low, interval.high, color=_BAND_COLOR, alpha=0.15, linewidth=0, zorder=0)


def _draw_line(axes, line, index, x_factor):
    style = {"color": _COLORS[index % len(_COLORS)], "marker": _MARKERS[index % len(_MARKERS)]}
    means = [interval.mean for interval in line.intervals]
    half_widths = [0.0 if math.isnan(each.low) else each.mean - each.low for each in line.intervals]
    x = [x_factor * value for value in line.x]
    if index >= len(_COLORS):  # tells apart lines of the same color
        style |= {"linestyle": "--", "markerfacecolor": "white"}
    axes.errorbar(x, means, half_widths, **style, label=line.name, markersize=5, capsize=2, elinewidth=1)


def _set_scales(axes, means, band_limits, share):
    ticker = _matplotlib().ticker
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    means = [mean for mean in means if math.isfinite(mean)]
    if means:
        axes.set_ylim(*_axis_limits([*means, *filter(math.isfinite, band_limits)]))
    if share and means and min(means) > 0 and max(means) < 1:
        _set_accuracy_scale(axes, [value for value in (*means, *band_limits) if 0 < value < 1])


def _set_accuracy_scale(axes, accuracies):
    ticker = _matplotlib().ticker
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    logits = _axis_limits([_logit(value) for value in accuracies])
    low, high = (1 / (1 + math.exp(-logit)) for logit in logits)
    if sum(low < tick < high for tick in _ACCURACY_TICKS) < _FEWEST_TICKS:
        return  # a linear axis has more ticks in a narrow range
    axes.set_yscale("logit", nonpositive="clip")  # bars may extend beyond 0 and 1
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(ticker.FixedLocator(_ACCURACY_TICKS))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _logit(accuracy):
    return math.log(accuracy / (1 - accuracy))


def _axis_limits(values):
    margin = 0.08 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _matplotlib():
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError("matplotlib is not installed: pip install 'tfap[comparison]'") from error
    return matplotlib
