"""The page of a report: the verdict, the figures, and the pictures."""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import rich.filesize

from tfap.graph.counts import ActivationCounts
from tfap.reporting.html.bars import layer_bars
from tfap.reporting.html.elements import Html, element, section, table
from tfap.reporting.html.firing import firing
from tfap.reporting.html.heat_map import heat_map
from tfap.reporting.html.scatter import Point, number_dot, scatter
from tfap.reporting.html.style import STYLE
from tfap.utils import files
from tfap.version import __version__

# The page may load nothing: a browser enforces it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NOISE = 0.05  # two measurements of one model can differ by so much
_Z = 1.96  # of a 95% interval


def write(path: str | os.PathLike[str], text: str) -> None:
    """Writes a page to a file, which is complete or unchanged."""
    files.replace(pathlib.Path(path), lambda file: file.write(text.encode()))


def page(title: str, lead: str, sections: Iterable[Html]) -> str:
    """Writes a whole page.

    Args:
        title: String. Its title.
        lead: String. One sentence below the title.
        sections: Iterable of `Html`.

    Returns:
        String.
    """
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Html(STYLE)),
    ]
    footer = element(
        "footer", f"Made by tfap {__version__}. Intervals of latency ratios and of accuracies are 95%."
    )
    body = element("main", element("h1", title), element("p", lead, class_="soft"), sections, footer)
    return f"<!DOCTYPE html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def of_report(
    report: Any,
    title: str | None = None,
    activations: Mapping[str, Mapping[str, ActivationCounts]] | None = None,
    sensitivity: Any = None,
    *,
    first: Iterable[Html] = (),
    more: Iterable[Html] = (),
) -> str:
    """Writes the page of a report.

    Args:
        report: A `tfap.reporting.table.Report`.
        title: String. None for the names of the models.
        activations: Dict of model name to a dict of layer path to `ActivationCounts`.
        sensitivity: A result of `tfap.sensitivity`, or None.
        first: Iterable of `Html`. Sections at the top.
        more: Iterable of `Html`. Sections below the verdict.

    Returns:
        String.
    """
    rows = _in_order(report)
    sections = [*first, overview(report), verdict(report), *more, speed(report), layers(report)]
    sections += [_firing(rows, activations or {}), _sensitivity(sensitivity), figures(report)]
    return page(title or " and ".join(row.name for row in rows[:4]), _lead(report, rows), sections)


def overview(report: Any) -> Html:
    """Writes the largest figures of each model as cards: what it saves, or what it is."""
    base = report[report.baseline] if report.baseline else None
    rows = [row for row in report if row is not base]
    parts = []
    for row in rows:
        cards = _savings(row, base, report) if base else _sizes(row, report)
        name = element("p", row.name, class_="model") if len(rows) > 1 or base else Html("")
        parts += [name, cards_of(cards)]
    return section("At a glance", parts)


def cards_of(cards: Iterable[tuple[Html, Html]]) -> Html:
    """Writes cards of pairs of `value` and `label`."""
    return element("div", [element("div", *card, class_="card") for card in cards], class_="cards")


def value(text: str, good: bool | None = None) -> Html:
    """Writes the large figure of a card: in a color if it is clearly good or bad."""
    kind = "" if good is None else (" good" if good else " bad")
    return element("div", text, class_=f"value{kind}")


def label(text: str) -> Html:
    """Writes what the figure of a card is."""
    return element("div", text, class_="label")


def verdict(report: Any) -> Html:
    """Writes the verdict in words, and the notes."""
    lines = [element("li", line) for line in (*report.verdict.splitlines(), *report.notes) if line]
    return section("In words", element("ul", lines, class_="verdict") if lines else Html(""))


def speed(report: Any) -> Html:
    """Draws scores against latencies, a picture per batch size."""
    rows = _in_order(report)
    batch_sizes = list(rows[0].latency)
    parts = []
    for batch_size in batch_sizes:
        points = [
            Point(row.name, _latency(row, batch_size, report), score_limits(row.score, report))
            for row in rows
            if row.score is not None
        ]
        if points:
            label = f"Latency at batch {batch_size} (ms)"
            picture = scatter(points, label, report.metric.capitalize(), report.metric == "accuracy")
            parts.append(element("div", element("h3", f"Batch {batch_size}"), picture))
    if parts:
        parts = [element("div", parts, class_="pictures")]
        parts.append(element("p", _explained(report), class_="soft"))
    return section(f"{report.metric.capitalize()} against latency", parts)


def layers(report: Any) -> Html:
    """Writes a bar per layer and model."""
    rows = [row for row in _in_order(report) if row.layers]
    parts = []
    for what, attribute in (
        ("Units", "units"),
        ("Weights that are not zero", "nonzero"),
        ("FLOPs per sample", "flops"),
    ):
        numbers = {row.name: {each.path: getattr(each, attribute) for each in row.layers} for row in rows}
        bars = layer_bars(what, numbers) if numbers else Html("")
        if bars:
            parts += [element("h3", what), bars]
    return section("Layer by layer", parts)


def figures(report: Any) -> Html:
    """Writes the table of all figures."""
    batch_sizes = list(report[0].latency)
    headings = ["Model", "Format", "Weights", "Not zero", "On disk", "Gzipped", "FLOPs"]
    headings += [f"ms, batch {batch_size}" for batch_size in batch_sizes] + [report.metric.capitalize()]
    rows = [
        [
            row.name,
            row.format,
            *map(_count, (row.weights, row.nonzero)),
            *map(_size, (row.bytes, row.gzipped_bytes)),
            _count(row.flops),
            *(_milliseconds(row.latency[batch_size]) for batch_size in batch_sizes),
            score_text(row.score, report.metric),
        ]
        for row in report
    ]
    return section("All figures", table("Unknown figures are “-”", headings, rows, "plain"))


def score_limits(score: float, report: Any) -> tuple[float, float, float]:
    """Returns the limits of a score, and the score between them. Those of an accuracy are Wilson's.

    Args:
        score: Float.
        report: The report, with `metric` and `samples`.
    """
    if report.metric != "accuracy" or not report.samples:
        return score, score, score
    number = report.samples
    center = (score + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z * math.sqrt(score * (1 - score) / number + _Z**2 / (4 * number**2)) / (1 + _Z**2 / number)
    return min(center - half, score), score, max(center + half, score)


def score_text(score: float | None, metric: str | None) -> str:
    """Formats a score: an accuracy in percent, and "-" for None."""
    if score is None:
        return "-"
    return f"{score:.2%}" if metric == "accuracy" else f"{score:.4g}"


# -- parts -----------------------------------------------------------------------------------------


def _in_order(report):
    """Returns the rows, the baseline first."""
    return sorted(report, key=lambda row: row.name != report.baseline)


def _lead(report, rows):
    if report.baseline:
        others = ", ".join(row.name for row in rows[1:])
        return f"{others} compared with {report.baseline}."
    return f"{len(rows)} model{'s' * (len(rows) > 1)}."


def _savings(row, base, report):
    for batch_size, latency in row.latency.items():
        if latency.ratio:
            factor = 1 / latency.ratio.median
            yield (
                value(f"{factor:.2f}x", _is_faster(latency.ratio)),
                label(f"as fast, batch {batch_size} ({row.format})"),
            )
    for attribute, name in (("weights", "weights"), ("flops", "FLOPs"), ("bytes", "bytes on disk")):
        before, after = getattr(base, attribute), getattr(row, attribute)
        if before and after:
            yield value(f"{100 * after / before:.3g}%", after <= before), label(f"of the {name}")
    if None not in (row.score, base.score):
        yield from _score_change(row, base, report)


def _score_change(row, base, report):
    change = row.score - base.score
    if report.metric != "accuracy":
        yield value(f"{change:+.3g}"), label(f"{report.metric}: {score_text(row.score, report.metric)}")
        return
    low, _, high = score_limits(row.score, report)
    clear = not low <= base.score <= high
    text = label(f"points of accuracy: {score_text(row.score, report.metric)}")
    yield value(f"{100 * change:+.2f}", change > 0 if clear else None), text


def _is_faster(ratio):
    """Whether a latency ratio is clearly below or above 1, or None: two runs can differ by 5%."""
    if ratio.high < 1 - _NOISE:
        return True
    return False if ratio.low > 1 + _NOISE else None


def _sizes(row, report):
    for batch_size, latency in row.latency.items():
        yield value(f"{1000 * latency.median:.3g} ms"), label(f"at batch {batch_size}")
    for text, name in (
        (_count(row.weights), "weights"),
        (_count(row.flops), "FLOPs per sample"),
        (_size(row.bytes), "on disk"),
        (score_text(row.score, report.metric), report.metric),
    ):
        if text != "-":
            yield value(text), label(name)


def _latency(row, batch_size, report):
    """Returns limits and value in ms: ratios times the baseline's median where there are ratios."""
    measured = row.latency[batch_size]
    if report.baseline is None:
        return 1000 * measured.low, 1000 * measured.median, 1000 * measured.high
    base = 1000 * report[report.baseline].latency[batch_size].median
    ratio = measured.ratio
    return (base, base, base) if ratio is None else (base * ratio.low, base * ratio.median, base * ratio.high)


def _explained(report):
    latency = (
        "Latencies are those of interleaved runs, as ratios to the baseline's median, with 95% intervals."
        if report.baseline
        else "Latencies are medians, with the 5th and 95th percentiles."
    )
    if report.metric == "accuracy" and report.samples:
        latency += f" Accuracies are on {report.samples:,} samples, with 95% intervals (Wilson)."
    return latency


def _firing(rows, activations):
    parts = []
    for index, row in enumerate(rows):
        if activations.get(row.name):
            heading = element("h3", number_dot(index), row.name) if len(rows) > 1 else Html("")
            parts += [heading, firing(activations[row.name], index if len(rows) > 1 else 1)]
    if not parts:
        return Html("")
    text = "How often neurons fire on the given data: the height of a bar is a number of neurons. The first "
    text += "bar is of those that never fire."
    return section("Firing rates", element("p", text, class_="soft"), parts)


def _sensitivity(sensitivity):
    """Draws heat maps of a `tfap.sensitivity` result, one with the refit and one without."""
    if sensitivity is None:
        return Html("")
    parts: list[Html] = []
    largest = max([removal.change for row in sensitivity.rows for removal in row.removals] or [0.0]) or 1.0
    for compensate in sensitivity.compensate:
        columns = [f"{rate:.0%}" for rate in sensitivity.rates]
        rows, texts = [], []
        for row in sensitivity.rows:
            by_rate = {removal.rate: removal.change for removal in row.of(compensate)}
            changes = [by_rate.get(rate, math.nan) for rate in sensitivity.rates]
            rows.append((row.name, changes))
            texts.append([_change_text(change) for change in changes])
        title = "With the refit of the kept weights" if compensate else "Without a refit"
        caption = "Change of the outputs, relative to their variance, by the share of channels removed"
        parts += [element("h3", title), heat_map(caption, columns, rows, texts, largest)]
    return section("Sensitivity of the layers", parts)


def _change_text(change):
    if math.isnan(change):
        return ""
    return f"{change:.1%}" if change >= 0.0005 else "<0.1%"


def _count(value):
    return "-" if value is None else f"{value:,}"


def _size(value):
    return "-" if value is None else rich.filesize.decimal(value)


def _milliseconds(latency):
    return f"{1000 * latency.median:.3g}"
