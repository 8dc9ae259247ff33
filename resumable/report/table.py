"""A table of runs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from resumable.report.runs import Run, compare_weights, counts

__all__ = ["as_table"]


def as_table(runs: Sequence[Run], /) -> Table:
    """A rich table of *runs*; the weights of each are compared with those of the first.

    >>> from resumable.report.runs import Session, Step
    >>> as_table([Run("a", 1, 1, (Session(0, (Step(0, (0,)),)),))]).row_count
    1
    """
    result = Table(
        title="Samples trained, over all epochs", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0
    )
    result.add_column("run", min_width=10, overflow="fold")
    for heading in ("sessions", "trained", "repeated", "lost", "final loss", "weights"):
        result.add_column(heading, justify="right", no_wrap=" " not in heading)
    for run in runs:
        count = counts(run)
        trouble = "bold red" if count.repeated or count.lost else "green"
        result.add_row(
            escape(run.name),
            str(len(run.sessions)),
            f"{count.trained:,}",
            f"[{trouble}]{count.repeated:,}",
            f"[{trouble}]{count.lost:,}",
            "" if run.final_loss is None else f"{run.final_loss:.6f}",
            "reference" if run is runs[0] else compare_weights(run, runs[0]),
        )
    return result
