"""Figures of figures: lines with 95% intervals. No window opens and no state of pyplot is touched."""

import collections
import dataclasses
import math

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B1E", "#8A8A00")
_MARKERS = "osD^vP*X"
_BAND = "#666666"
# Where the axis of an accuracy may have its ticks.
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999)
_FEWEST_TICKS = 3
_MOST_SPARSITIES = 7


@dataclasses.dataclass(frozen=True)
class Line:
    """What is drawn in one colour.

    Attributes:
        name: in the legend.
        x: where the points are, above 0.
        intervals: `tfap.utils.statistics.Interval`, one for each x.
    """

    name: str
    x: collections.abc.Sequence
    intervals: collections.abc.Sequence


def lines(lines, band, xlabel, ylabel, share=False, spread=1.0):
    """Draws lines over a logarithmic x axis, with their intervals as bars, the legend beside them.

    The y axis holds every mean and the band; a bar may leave it, since that of one method that failed would
    squeeze the others.

    Args:
        lines: list of `Line`.
        band: the `Line` of one point that the others are compared with: drawn over the whole width. None
            draws none.
        xlabel, ylabel: of the axes.
        share: y is an accuracy: it is written in percent, and the axis is a logit one, on which 98% and 99%
            are as far apart as 50% and 67%; linear where that cannot be or all are near each other.
        spread: where lines share their x: how many times larger that of the last line is drawn than that
            of the first, so that their bars do not hide each other.

    Returns:
        A `matplotlib.figure.Figure`: `savefig(path)` writes it, notebooks show it.
    """
    figure = _matplotlib().figure.Figure(figsize=(8.5, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel=xlabel, ylabel=ylabel)
    bands = [band] if band else []
    for line in bands:
        _draw_band(axes, line)
    for index, line in enumerate(lines):
        _draw_line(axes, line, index, moved=spread ** (index / max(1, len(lines) - 1) - 0.5))
    means = [one.mean for line in [*lines, *bands] for one in line.intervals]
    edges = [edge for line in bands for one in line.intervals for edge in (one.low, one.high)]
    _set_scales(axes, means, edges, share)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def label_sparsity(figure, kept):
    """Makes the x axis of `lines`, shares of weights that are kept, one of sparsity, rising to the right.

    Args:
        figure: with one axes.
        kept: shares in (0, 1], rising or falling; where there are many, not all get a tick.
    """
    (axes,) = figure.axes
    last, ticks = len(kept) - 1, min(len(kept), _MOST_SPARSITIES)
    shown = [kept[round(number * last / max(1, ticks - 1))] for number in range(ticks)]
    axes.set_xticks(shown, [f"{100 * (1 - share):.4g}%" for share in shown])
    axes.xaxis.set_minor_locator(_matplotlib().ticker.NullLocator())
    axes.invert_xaxis()


def _draw_band(axes, band):
    (mean,) = band.intervals
    axes.axhline(mean.mean, color=_BAND, linestyle="--", linewidth=1, label=band.name, zorder=1)
    if not math.isnan(mean.low):
        axes.axhspan(mean.low, mean.high, color=_BAND, alpha=0.15, linewidth=0, zorder=0)


def _draw_line(axes, line, index, moved):
    style = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
    means = [one.mean for one in line.intervals]
    half = [0.0 if math.isnan(one.low) else one.mean - one.low for one in line.intervals]
    x = [moved * value for value in line.x]
    if index >= len(_COLOURS):  # a colour comes again: dashed and hollow
        style |= {"linestyle": "--", "markerfacecolor": "white"}
    axes.errorbar(x, means, half, **style, label=line.name, markersize=5, capsize=2, elinewidth=1)


def _set_scales(axes, means, edges, share):
    """Scales and ticks; the y axis holds the means, and the edges where it can."""
    ticker = _matplotlib().ticker
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    means = [mean for mean in means if math.isfinite(mean)]
    if means:
        axes.set_ylim(*_limits([*means, *filter(math.isfinite, edges)]))
    if share and means and min(means) > 0 and max(means) < 1:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        shown = [value for value in (*means, *edges) if 0 < value < 1]
        low, high = (1 / (1 + math.exp(-end)) for end in _limits([_logit(value) for value in shown]))
        if sum(low < tick < high for tick in _SHARES) < _FEWEST_TICKS:
            return  # so near each other that a linear axis does
        axes.set_yscale("logit", nonpositive="clip")  # bars may reach beyond 0 and 1
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(ticker.FixedLocator(_SHARES))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        axes.yaxis.set_minor_locator(ticker.NullLocator())


def _logit(share):
    return math.log(share / (1 - share))


def _limits(shown):
    margin = 0.08 * (max(shown) - min(shown)) or 0.05 * abs(max(shown)) or 1.0
    return min(shown) - margin, max(shown) + margin


def _matplotlib():
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError("Figures are drawn with matplotlib: pip install 'tfap[comparison]'") from error
    return matplotlib
