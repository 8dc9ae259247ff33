"""Where a run stands in its data: one small value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the global order of a run.

    The end of an epoch and the start of the next are one place, and it is written as the start of the next.

    >>> Position(consumed_samples=70, epoch=1, offset=6)
    Position(consumed_samples=70, epoch=1, offset=6)
    """

    consumed_samples: int = 0
    """Samples whose optimizer step has completed, over all ranks, since the run began."""
    epoch: int = 0
    """Passes of the order that lie behind."""
    offset: int = 0
    """Samples of this epoch's order that lie behind."""
