"""The page of a `tfap.shrink` result: the verdict, its stages, what each layer bears, and the report."""

import math
from collections.abc import Mapping
from typing import Any

from tfap.graph.counts import ActivationCounts
from tfap.reporting.html import page
from tfap.reporting.html.elements import Html, element, joined, section, table
from tfap.reporting.html.heat_map import heat_map
from tfap.reporting.html.scatter import Point, scatter

_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_UNITS = {"ms": "Latency (ms)", "bytes": "Bytes", "flops": "FLOPs", "weights": "Weights"}


def of_result(
    result: Any, title: str | None, activations: Mapping[str, Mapping[str, ActivationCounts]] | None
) -> str:
    """Writes the page.

    Args:
        result: A `ShrinkResult`.
        title: String. None for one with the budget.
        activations: Dict of "dense" and "small" to a dict of layer path to `ActivationCounts`.

    Returns:
        String.
    """
    verdict = section("Verdict", element("p", result.verdict), page.cards_of(_cards(result)))
    more = [_stages(result), _allocation(result)]
    title = title or f"Shrunk to {result.budget}"
    return page.of_report(result.report, title, activations, first=[verdict], more=more)


def _cards(result):
    """Yields what the budget is about, and whether it is met."""
    before, after = result.stages[0].used, result.stages[result.chosen].used
    amount = f"{before / after:.2f}x" if result.unit == "ms" else f"{100 * after / before:.3g}%"
    what = "as fast" if result.unit == "ms" else f"of the {result.unit.replace('flops', 'FLOPs')}"
    yield page.value(amount, result.meets_budget), page.label(f"{what}; asked for: {result.budget}")


def _stages(result):
    """Draws the score of each stage against what its model uses, above the table of the stages."""
    points = [_point(stage, result) for stage in result.stages if stage.score is not None]
    picture = Html("")
    if len(points) > 1:
        percent = result.metric == "accuracy"
        unit = "FLOPs" if result.unit == "flops" else result.unit
        picture = scatter(points, _UNITS[result.unit], result.metric.capitalize(), percent, unit)
    scores = [] if result.metric is None else [result.metric]
    if _is_trained(result):
        scores.insert(0, f"{result.metric} before fit")
    headings = ["Stage", "Weights", "FLOPs", *_extra_unit(result), *scores, "Seconds"]
    rows = [_stage_row(stage, result) for stage in result.stages]
    return section("Stages", picture, table("Each stage prunes the model of the one before", headings, rows))


def _point(stage, result):
    name = f"stage {stage.number}" if stage.number else "given"
    return Point(name, (stage.used,) * 3, page.score_limits(stage.score, result.report))


def _stage_row(stage, result):
    name = "given" if not stage.number else str(stage.number)
    name += ", returned" if stage.number == result.chosen else ""
    name += "" if stage.is_accepted else ", too much lost"
    scores = [stage.pruned_score, stage.score] if _is_trained(result) else [stage.score]
    texts = [page.score_text(score, result.metric) for score in scores]
    return [
        name,
        f"{stage.weights:,}",
        "-" if stage.flops is None else f"{stage.flops:,}",
        *([f"{stage.used:.4g}" if result.unit == "ms" else f"{stage.used:,.0f}"] * len(_extra_unit(result))),
        *([] if result.metric is None else texts),
        f"{stage.prune_seconds + stage.fit_seconds:.1f}",
    ]


def _extra_unit(result):
    """Returns the heading of a column for the budget, unless it is one of weights or FLOPs."""
    return [] if result.unit in ("weights", "flops") else [_UNITS[result.unit]]


def _is_trained(result):
    """Whether the stages have scores before their training."""
    return any(stage.pruned_score is not None for stage in result.stages)


def _allocation(result):
    """Draws what the outputs bear of each layer of the first model that was pruned, and what it lost."""
    first = next((stage.allocation for stage in result.stages if stage.allocation), None)
    if first is None or not first.sets:
        return Html("")
    rows, texts = [], []
    for each in first.sets:
        removed = [min(round(rate * each.channels), each.channels - 1) for rate in _RATES]
        changes = [1 - math.exp(-each.losses[number]) for number in removed]
        fraction = first.get(each.layers[0], 0.0)
        rows.append((f"{' + '.join(each.layers)}: lost {fraction:.0%}", changes))
        texts.append([f"{change:.1%}" if change >= 0.0005 else "<0.1%" for change in changes])
    largest = max([change for _, changes in rows for change in changes] + [1e-9])
    caption = (
        "Change of the outputs, relative to their variance, if only this layer loses that share of its "
        "channels. The first stage took the share beside its name."
    )
    columns = [f"{rate:.0%}" for rate in _RATES]
    return section("What each layer bears", joined([heat_map(caption, columns, rows, texts, largest)]))
