"""What a command prints: facts, tables and lines, styled on a terminal where rich is installed, plain otherwise.

A table that does not fit in the terminal's width becomes a block of facts for each of its rows.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any, Final

__all__ = ["Facts", "Part", "Table", "show", "show_json"]

_GAP: Final = 2


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


def show_json(value: object, /) -> None:
    """Print *value* as JSON that programs and people can read."""
    print(json.dumps(value, indent=2))


def show(*parts: Part) -> None:
    r"""Print *parts*, an empty line between two.

    >>> show("2 stretches", Facts([("epoch", "1"), ("offset", "2,800")]))
    2 stretches
    <BLANKLINE>
    epoch   1
    offset  2,800
    """
    width = _width()
    fitted = list(chain.from_iterable(_fitted(_cleaned(part), width) for part in parts))
    if sys.stdout.isatty() and find_spec("rich") is not None:
        _show_styled(fitted, width)
        return
    print("\n\n".join("\n".join(_plain(part, width)) for part in fitted))


def _width() -> int | None:
    """The columns that there are; None where the output is piped, and nothing says how wide it may be."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return max(20, shutil.get_terminal_size().columns)


def _cleaned(part: Part) -> Part:
    if isinstance(part, str):
        return _clean(part)
    if isinstance(part, Facts):
        return Facts([(_clean(name), _clean(value)) for name, value in part.rows], _clean(part.title))
    return Table(part.columns, [[_clean(cell) for cell in row] for row in part.rows], _clean(part.title))


def _clean(text: str) -> str:
    """*text* without what could steer a terminal: names in a checkpoint may be anything."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def _fitted(part: Part, width: int | None) -> Sequence[Part]:
    if isinstance(part, Table) and width is not None and sum(_widths(part)) + _GAP * (len(part.columns) - 1) > width:
        blocks = [Facts(list(zip(part.columns, row, strict=True))) for row in part.rows]
        return [*([part.title] if part.title else []), *blocks]
    return [part]


def _widths(table: Table) -> list[int]:
    return [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(cell[:1].isdigit() or cell in ("", "-") for cell in cells)


def _numeric(table: Table) -> list[bool]:
    return [_is_numeric([row[at] for row in table.rows]) for at in range(len(table.columns))]


def _plain(part: Part, width: int | None) -> list[str]:
    if isinstance(part, str):
        return [part] if width is None else [textwrap.fill(line, width) for line in part.splitlines()]
    title = [part.title] if part.title else []
    if isinstance(part, Facts):
        indent = max((len(name) for name, _ in part.rows), default=0) + _GAP
        return title + [_fact(name, value, indent, width) for name, value in part.rows]
    widths, numeric = _widths(part), _numeric(part)
    aligned = [
        [
            cell.rjust(size) if right else cell.ljust(size)
            for cell, size, right in zip(row, widths, numeric, strict=True)
        ]
        for row in (part.columns, *part.rows)
    ]
    return title + [(" " * _GAP).join(cells).rstrip() for cells in aligned]


def _fact(name: str, value: str, indent: int, width: int | None) -> str:
    line = f"{name:<{indent}}{value}"
    if width is None or len(line) <= width:
        return line.rstrip()
    return textwrap.fill(line, width, subsequent_indent=" " * indent)


def _show_styled(parts: Sequence[Part], width: int | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=width, highlight=False)
    for number, part in enumerate(parts):
        if number:
            console.print()
        if isinstance(part, str):
            console.print(Text(part))
            continue
        if part.title:
            console.print(Text(part.title, style="bold"))
        made: Any
        if isinstance(part, Facts):
            made = RichTable.grid(padding=(0, _GAP, 0, 0))
            made.add_column(style="cyan", no_wrap=True)
            made.add_column(overflow="fold")
        else:
            made = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
            for column, right in zip(part.columns, _numeric(part), strict=True):
                made.add_column(column, justify="right" if right else "left", no_wrap=True, header_style="cyan")
        for row in part.rows:
            made.add_row(*map(Text, row))
        console.print(made)
