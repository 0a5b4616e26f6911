"""A bar per layer and model: the layers before and after pruning."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfap.reporting.html.elements import Html, element, table
from tfap.reporting.html.style import color


def layer_bars(what: str, figures: Mapping[str, Mapping[str, int | None]]) -> Html:
    """Writes a table with a number and a bar for every layer of every model.

    Args:
        what: String. What the numbers are, such as "Weights".
        figures: Dict of model name to a dict of layer path to the number, None if unknown. The first model is
            the one that the others are compared with.

    Returns:
        `Html`, empty if no number is known.
    """
    paths = list(dict.fromkeys(path for numbers in figures.values() for path in numbers))
    known = [value for numbers in figures.values() for value in numbers.values() if value]
    if not known:
        return Html("")
    first = next(iter(figures))
    rows: list[Sequence[Any]] = [
        [path, *(_cell(figures, name, path, first, index, max(known)) for index, name in enumerate(figures))]
        for path in paths
    ]
    return table(f"{what}, layer by layer", ["Layer", *figures], rows, "bars", shown=False)


def _cell(figures, name, path, first, index, largest):
    value, before = figures[name].get(path), figures[first].get(path)
    if value is None:
        return "-"
    text = f"{value:,}"
    if name != first and before:
        text += f" ({value / before - 1:+.0%})" if value != before else " (same)"
    fill = element("div", style=f"width:{100 * value / largest:.2f}%;background:{color(index)}")
    return [text, element("div", fill, class_="bar", aria_hidden="true")]
