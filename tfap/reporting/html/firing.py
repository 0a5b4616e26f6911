"""Firing rates: a histogram per layer, and a table of dead neurons."""

from collections.abc import Mapping

import numpy as np

from tfap.graph.counts import ActivationCounts
from tfap.reporting.html.elements import Html, element, joined, svg, table
from tfap.reporting.html.style import color

_BINS = 20
_WIDTH, _HEIGHT = 160.0, 64.0


def firing(counts: Mapping[str, ActivationCounts], index: int = 1) -> Html:
    """Writes the firing rates of a model.

    Args:
        counts: Dict of layer path to `ActivationCounts`.
        index: Integer. Index of the model, for its color.

    Returns:
        `Html`.
    """
    figures = [_figure(path, layer, index) for path, layer in counts.items()]
    rows = [
        [path, f"{len(layer.counts):,}", _silent(layer), *map(_percent, _rates(layer))]
        for path, layer in counts.items()
    ]
    headings = ["Layer", "Neurons", "Silent", "Dead", "Static", "Dynamic"]
    caption = "Dead neurons: rate, averaged over inputs, and its static and dynamic parts"
    histograms = element("div", figures, class_="histograms")
    return joined([histograms, element("h3", "Dead neurons"), table(caption, headings, rows)])


def _figure(path, counts, index):
    rates = counts.firing_rate
    bins, _ = np.histogram(rates[rates > 0], _BINS, (0, 1))
    heights = [_silent(counts), *bins.tolist()]
    largest, width = max(*heights, 1), _WIDTH / (_BINS + 1)
    bars = [
        element(
            "rect",
            x=f"{width * at + 0.5:.1f}",
            width=f"{width - 1:.1f}",
            y=f"{_HEIGHT * (1 - height / largest):.1f}",
            height=f"{_HEIGHT * height / largest:.1f}",
            fill=color(index) if at else "var(--dead)",
        )
        for at, height in enumerate(heights)
        if height
    ]
    base = element("line", x1=0, x2=_WIDTH, y1=_HEIGHT - 0.5, y2=_HEIGHT - 0.5, class_="grid")
    said = f"Histogram of the firing rates of {path}: {heights[0]} neurons never fire."
    axis = element("div", *(element("span", text) for text in ("0", "50%", "100%")), class_="axis")
    return element("figure", svg(_WIDTH, _HEIGHT, said, base, bars), axis, _caption(path, counts))


def _caption(path, counts):
    silent = _silent(counts)
    marked = element("span", f"{silent:,} never fire", class_="silent") if silent else "all fire"
    text = [f"{len(counts.counts):,} neurons, ", marked, f", mean {_percent(counts.firing_rate.mean())}"]
    return element("figcaption", element("b", path), text)


def _silent(counts):
    return int((counts.counts == 0).sum())


def _rates(counts):
    return counts.dead_neuron_rate, counts.static_dead_neuron_rate, counts.dynamic_dead_neuron_rate


def _percent(rate):
    return f"{rate:.1%}"
