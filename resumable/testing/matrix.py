"""What `check_resume` returns: a cell for each place where a run was stopped, and a table of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

from resumable.tables import Facts, Part, Table, plain
from resumable.testing.comparison import Outcome
from resumable.testing.identities import Identity
from resumable.testing.sessions import Sizes

__all__ = ["Cell", "Matrix", "Row"]

_SHOWN: Final = 8
"""Samples of a step that are shown."""

_WIDTH: Final = 60
"""Columns of what is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run that was stopped and resumed.

    *cuts* are the optimizer steps that were complete when each state was saved. *sizes* are those of the first session,
    *then* those of the later ones. *step*, counted from 1, is the first that trained something else than the uninterrupted
    run: *actual* in the place of *expected*. *text* is an error, or the first warning that the resumed sessions gave.
    """

    stopped: str
    sizes: Sizes
    then: Sizes
    cuts: tuple[int, ...] = ()
    outcome: Outcome = "exact"
    step: int | None = None
    expected: tuple[Identity, ...] = ()
    actual: tuple[Identity, ...] = ()
    repeated: int = 0
    lost: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells that differ in their cuts alone."""

    cells: tuple[Cell, ...]

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many cells came to each outcome."""
        return dict(Counter(cell.outcome for cell in self.cells))

    @property
    def is_exact(self) -> bool:
        """Whether all of them are exact."""
        return set(self.outcomes) == {"exact"}


@dataclass(frozen=True, slots=True, repr=False)
class Matrix:
    """The outcome of each cell; as a string, a table that is readable from 60 columns up.

    >>> matrix = Matrix((Cell(stopped="after a step", sizes=Sizes(0, 4), then=Sizes(0, 4), cuts=(1,)),))
    >>> matrix.is_exact
    True
    >>> print(matrix)
    All 1 runs that were stopped and resumed are exact.
    <BLANKLINE>
    stopped       workers  batch  ranks  accum  outcome
    after a step        0      4      -      1  exact
    """

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def is_exact(self) -> bool:
        """Whether each run trained, in each optimizer step, what the uninterrupted run did; False if none was made."""
        return bool(self.cells) and all(cell.outcome == "exact" for cell in self.cells)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The cells by sizes and by how the run was stopped."""
        groups = groupby(self.cells, key=lambda cell: (cell.stopped, cell.sizes, cell.then))
        return tuple(Row(tuple(cells)) for _, cells in groups)

    def to_json(self) -> str:
        """The matrix as JSON: `is_exact`, `cells`, and `notes`."""
        cells = [asdict(cell) for cell in self.cells]
        return json.dumps({"is_exact": self.is_exact, "cells": cells, "notes": self.notes}, indent=2)

    def __str__(self) -> str:
        return "\n\n".join(plain(part, None if isinstance(part, Table) else _WIDTH) for part in self._parts())

    def __repr__(self) -> str:
        return str(self)

    def _parts(self) -> Iterator[Part]:
        wrong = [cell for cell in self.cells if cell.outcome != "exact"]
        total = len(self.cells)
        yield (
            f"{len(wrong)} of {total} runs that were stopped and resumed are not exact."
            if wrong
            else f"All {total} runs that were stopped and resumed are exact."
        )
        columns = ("stopped", "workers", "batch", "ranks", "accum", "outcome")
        yield Table(columns, [_cells_of(row) for row in self.rows])
        seen: set[tuple[str, str]] = set()
        for cell in wrong:
            if (cell.stopped, cell.outcome) not in seen:
                seen.add((cell.stopped, cell.outcome))
                yield Facts(list(_facts(cell)), title=f"{cell.outcome}: {cell.stopped}")
        yield from self.notes


def _cells_of(row: Row) -> tuple[str, ...]:
    wrong = Counter(cell.outcome for cell in row.cells if cell.outcome != "exact")
    told = f"{wrong.most_common(1)[0][0]} {wrong.total()}/{len(row.cells)}" if wrong else "exact"
    return (row.cells[0].stopped, *_sizes(row.cells[0]), told)


def _sizes(cell: Cell) -> Iterator[str]:
    for name in ("num_workers", "batch_size", "data_parallel_size", "accumulation"):
        first, then = getattr(cell.sizes, name), getattr(cell.then, name)
        shown = "-" if first is None else str(first)
        yield shown if first == then else f"{shown}>{then}"


def _facts(cell: Cell) -> Iterator[tuple[str, str]]:
    sizes = zip(("workers", "batch", "ranks", "accum"), _sizes(cell), strict=True)
    yield "sizes", ", ".join(f"{name} {size}" for name, size in sizes if size != "-")
    if cell.cuts:
        yield "saved after", f"step {' and '.join(map(str, cell.cuts))}"
    if cell.step is not None:
        yield "first in", f"step {cell.step}"
        yield "expected", _shown(cell.expected)
        yield "actual", _shown(cell.actual)
        yield "samples", f"{cell.repeated} repeated, {cell.lost} lost"
    if cell.text:
        yield ("error" if cell.outcome == "crash" else "said"), _short(cell.text)
    elif cell.outcome not in ("crash", "hang"):
        yield "said", "nothing: this is wrong in silence"


def _shown(samples: Sequence[Any]) -> str:
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return (", ".join(map(str, samples[:_SHOWN])) or "no such step") + more


def _short(text: str, longest: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
