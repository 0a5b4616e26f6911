"""Elements of HTML and SVG. Text is escaped wherever it comes from."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Finished HTML, which is not escaped again."""


def element(name: str, *children: Any, **attributes: Any) -> Html:
    """Writes an element.

    Args:
        name: String. Its name, such as "td".
        *children: What it holds: `Html`, iterables of it, or anything else as text, which is escaped.
        **attributes: Its attributes. `class_` is `class`, and `_` in a name is `-`. None leaves one out.

    Returns:
        `Html`.

    Example:

    >>> element("td", "a < b", class_="number", data_x=1)
    '<td class="number" data-x="1">a &lt; b</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Html:
    """Joins children as `element` does."""
    return Html("".join(map(_child, children)))


def _child(child):
    if isinstance(child, Html):
        return child
    if isinstance(child, list | tuple) or hasattr(child, "__next__"):
        return joined(child)
    return html.escape(str(child), quote=False)


def table(
    caption: str,
    headings: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    class_: str | None = None,
    shown: bool = True,
) -> Html:
    """Writes a table. The first cell of each row is its heading; a cell may be a `td` element already.

    Args:
        caption: String. What the table is about.
        headings: Cells of the first row.
        rows: Iterable of rows of cells.
        class_: String. Class of the table.
        shown: Boolean. Whether the caption is on the page too, and not only what a screen reader says.
    """
    head = element("tr", [element("th", heading, scope="col") for heading in headings])
    body = [
        element("tr", element("th", first, scope="row"), [_table_cell(cell) for cell in cells])
        for first, *cells in rows
    ]
    made = element(
        "table", element("caption", caption), element("thead", head), element("tbody", body), class_=class_
    )
    scrolled = element("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)
    text = element("p", caption, class_="caption", aria_hidden="true") if shown else Html("")
    return joined([text, scrolled])


def _table_cell(cell):
    return cell if isinstance(cell, Html) and cell.startswith("<td") else element("td", cell)


def svg(width: float, height: float, description: str, *children: Any, class_: str | None = None) -> Html:
    """Writes a picture. The description is what a screen reader says."""
    return element(
        "svg",
        element("title", description),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        class_=class_,
        xmlns="http://www.w3.org/2000/svg",
    )


def section(title: str, *children: Any) -> Html:
    """Writes a section of the page. Empty children make it empty."""
    content = joined(children)
    return element("section", element("h2", title), content) if content else Html("")
