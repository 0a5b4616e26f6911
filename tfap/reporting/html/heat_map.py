"""A heat map as a table: a row per layer, a column per fraction of pruned channels."""

import math
from collections.abc import Sequence

from tfap.reporting.html.elements import Html, element, table

_STRONG = 0.75  # from here on, text on the color is light


def heat_map(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float]]],
    texts: Sequence[Sequence[str]],
    largest: float,
) -> Html:
    """Writes a table whose cells are the stronger in color the larger their value is.

    Args:
        caption: String. What the values are.
        columns: Headings of the columns.
        rows: List of `(name, values)`. NaN has no color.
        texts: List of the texts of the cells of each row.
        largest: Float > 0. The value of the strongest color, the same for heat maps to compare.

    Returns:
        `Html`.
    """
    body = [
        [name, *(_cell(value / largest, text) for value, text in zip(values, of_row))]
        for (name, values), of_row in zip(rows, texts)
    ]
    return table(caption, ["Layer", *columns], body, "heat")


def _cell(strength, text):
    if math.isnan(strength):
        return text
    strength = math.sqrt(min(max(strength, 0.0), 1.0))  # small changes are told apart too
    ink = "color:var(--card)" if strength > _STRONG else "color:var(--ink)"
    return element("td", text, style=f"background:rgba(var(--heat),{strength:.3f});{ink}")
