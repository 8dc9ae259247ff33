"""Facts and tables as plain text: what commands print, and what checks return as a string.

A table that does not fit in the width becomes a block of facts for each of its rows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["GAP", "Facts", "Part", "Table", "fitted", "numeric_columns", "plain"]

GAP: Final = 2
"""Columns between two cells."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with their values, one a line, below a *title*."""

    rows: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells below a *title*. Columns of numbers are aligned at the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


Part = Facts | Table | str
"""A part of what a command prints; a string is a paragraph."""


def plain(part: Part, width: int | None = None, /) -> str:
    """*part* as text of at most *width* columns; None lets its lines be as long as they are.

    >>> print(plain(Table(["name", "steps"], [["a", "10"], ["bc", "9"]])))
    name  steps
    a        10
    bc        9
    """
    return "\n\n".join("\n".join(_lines(each, width)) for each in fitted(part, width))


def fitted(part: Part, width: int | None, /) -> Sequence[Part]:
    """*part* itself, or what takes its place where it is wider than *width*.

    >>> fitted(Table(["name", "steps"], [["a", "10"]]), 9)
    [Facts(rows=[('name', 'a'), ('steps', '10')], title='')]
    """
    if isinstance(part, Table) and width is not None and sum(_widths(part)) + GAP * (len(part.columns) - 1) > width:
        blocks = [Facts(list(zip(part.columns, row, strict=True))) for row in part.rows]
        return [*([part.title] if part.title else []), *blocks]
    return [part]


def _widths(table: Table) -> list[int]:
    return [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(cell[:1].isdigit() or cell in ("", "-") for cell in cells)


def numeric_columns(table: Table, /) -> list[bool]:
    """For each column, whether it holds numbers, which are aligned at the right.

    >>> numeric_columns(Table(["name", "steps"], [["a", "10"]]))
    [False, True]
    """
    return [_is_numeric([row[at] for row in table.rows]) for at in range(len(table.columns))]


def _lines(part: Part, width: int | None) -> list[str]:
    if isinstance(part, str):
        return [part] if width is None else [textwrap.fill(line, width) for line in part.splitlines()]
    title = [part.title] if part.title else []
    if isinstance(part, Facts):
        indent = max((len(name) for name, _ in part.rows), default=0) + GAP
        return title + [_fact(name, value, indent, width) for name, value in part.rows]
    widths, numeric = _widths(part), numeric_columns(part)
    aligned = [
        [
            cell.rjust(size) if right else cell.ljust(size)
            for cell, size, right in zip(row, widths, numeric, strict=True)
        ]
        for row in (part.columns, *part.rows)
    ]
    return title + [(" " * GAP).join(cells).rstrip() for cells in aligned]


def _fact(name: str, value: str, indent: int, width: int | None) -> str:
    line = f"{name:<{indent}}{value}"
    if width is None or len(line) <= width:
        return line.rstrip()
    return textwrap.fill(line, width, subsequent_indent=" " * indent)
