"""Tables as plain text, for printed plans and reports."""

from collections.abc import Iterable

import rich.box
import rich.console
import rich.table


def table_of(left: Iterable[str], right: Iterable[str] = ()) -> rich.table.Table:
    """Creates an empty table.

    Args:
        left: Headings of the left-aligned columns.
        right: Headings of the right-aligned columns, which follow them.

    Returns:
        A `rich.table.Table` without rows.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def as_text(table: rich.table.Table, *lines: str) -> str:
    """Renders a table as plain text, without trailing spaces.

    Args:
        table: A `rich.table.Table`.
        *lines: Lines to print below the table.

    Returns:
        A string of several lines, at most 140 characters wide.
    """
    console = rich.console.Console(width=140, no_color=True, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
        for line in lines:
            console.print(line)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
