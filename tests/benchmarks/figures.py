"""Measured figures, their targets, and what a plain shuffled DataLoader takes for the same in the same run.

A figure is the median of repetitions that alternate with those of what it is compared with, so that a busy moment of
the machine meets both. Times within one process are the processor's: other programs may hold the clock's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

__all__ = ["Figure", "Results", "as_table", "fresh_process", "interleaved"]

ROOT = Path(__file__).parents[2]

Results = dict[str, list[float]]
"""Repetitions by what was repeated."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table: repetitions in *unit*, those of the plain DataLoader, and the target.

    The target is a limit on the median (*at_most* or *at_least*), or on its ratio to the plain median (*ratio_at_most*).
    """

    what: str
    unit: str
    measured: Sequence[float]
    plain: Sequence[float] = ()
    at_most: float | None = None
    at_least: float | None = None
    ratio_at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        """The median over the plain one's; None where the plain one cannot do it."""
        return median(self.measured) / median(self.plain) if self.plain else None

    @property
    def target(self) -> str:
        """The limit in words; empty where there is none."""
        if self.ratio_at_most is not None:
            return f"ratio ≤ {self.ratio_at_most}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g} {self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g} {self.unit}"

    @property
    def is_met(self) -> bool:
        """Whether the median is within the target."""
        if self.ratio_at_most is not None:
            return self.ratio is not None and self.ratio <= self.ratio_at_most
        if self.at_least is not None:
            return median(self.measured) >= self.at_least
        return self.at_most is None or median(self.measured) <= self.at_most


def as_table(title: str, figures: Sequence[Figure]) -> Table:
    """The figures as lines. "best" is the best of the repetitions: how far the machine was at rest."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("median", "best", "plain", "ratio", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for figure in figures:
        best = max(figure.measured) if figure.at_least is not None else min(figure.measured)
        verdict = "[green]met" if figure.is_met else "[bold red]not met"
        table.add_row(
            figure.what,
            f"{median(figure.measured):,.4g} {figure.unit}",
            f"{best:,.4g}",
            f"{median(figure.plain):,.4g}" if figure.plain else "",
            "" if figure.ratio is None else f"{figure.ratio:.3g}",
            figure.target,
            verdict if figure.target else "",
        )
    return table


def interleaved(calls: Mapping[str, Callable[[], float]], repetitions: int) -> Results:
    """What the calls give, in rounds of one call each."""
    results: Results = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            results[name].append(call())
    return results


def fresh_process(*arguments: str) -> Any:
    """What a new Python with these arguments prints, read as JSON."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
