"""Tables as text: how plans and reports print."""

import rich.box
import rich.console
import rich.table


def table_of(left, right=()):
    """An empty rich table with headings of left- and of right-aligned columns."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def as_text(table, *lines):
    """A rich table and lines below it as plain text, without trailing spaces."""
    console = rich.console.Console(width=140, no_color=True, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
        for line in lines:
            console.print(line)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
