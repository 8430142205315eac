"""Tables on a terminal of any width: nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

NARROW = 10
"""Columns behind the first may be folded down to this many cells."""
FRAME = 3
"""Cells that a column takes beside its text."""


def drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """A table whose first column, which says what a row is about, stands in one piece; where that leaves the others no room,
    the table turned around, else a paragraph for each row."""
    if _has_room(columns, rows, width, NARROW):
        return _table(title, columns, rows)
    names, *turned = zip(columns, *rows, strict=True)
    if _has_room(names, turned, width, max(map(len, names[1:]), default=0)):
        return _table(title, names, turned)
    return _paragraphs(title, columns, rows)


def _has_room(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, narrow: int) -> bool:
    """Whether the first column fits in one piece beside others that are folded down to `narrow` cells."""
    from rich.cells import cell_len

    first, *others = (max(cell_len(cell) for cell in column) for column in zip(columns, *rows, strict=True))
    folded = sum(min(cells, narrow) for cells in others)
    return first <= width // 2 and first + folded + FRAME * len(columns) + 1 <= width


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _paragraphs(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(title, "italic", justify="left")] if title else []
    for row in rows:
        parts.append(Text(row[0], "bold", overflow="fold"))
        grid = Table.grid(padding=(0, 2), pad_edge=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for column, cell in zip(columns[1:], row[1:], strict=True):
            grid.add_row(Text(column), Text(cell))
        parts.append(grid)
    return Group(*parts)
