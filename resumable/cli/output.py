"""What a command prints: facts, tables and lines, styled on a terminal where rich is installed, plain otherwise.

A table that does not fit in the terminal's width becomes a block of facts for each of its rows.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from resumable.tables import GAP, Facts, Part, Table, fitted, numeric_columns, plain

__all__ = ["Facts", "Part", "Table", "show", "show_json"]


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
    cleaned = [_cleaned(part) for part in parts]
    if sys.stdout.isatty() and find_spec("rich") is not None:
        _show_styled([each for part in cleaned for each in fitted(part, width)], width)
        return
    print("\n\n".join(plain(part, width) for part in cleaned))


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
            made = RichTable.grid(padding=(0, GAP, 0, 0))
            made.add_column(style="cyan", no_wrap=True)
            made.add_column(overflow="fold")
        else:
            made = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
            for column, right in zip(part.columns, numeric_columns(part), strict=True):
                made.add_column(column, justify="right" if right else "left", no_wrap=True, header_style="cyan")
        for row in part.rows:
            made.add_row(*map(Text, row))
        console.print(made)
