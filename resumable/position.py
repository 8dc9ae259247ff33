"""Where a run is in its data: one small value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come in the global order of its samples.

    The end of an epoch and the start of the next are the same position. It is written as the start of the next.

    >>> Position(consumed_samples=70, epoch=1, offset=6)
    Position(consumed_samples=70, epoch=1, offset=6)
    """

    consumed_samples: int = 0
    """Samples whose optimizer step has completed, over all ranks, since the run began."""
    epoch: int = 0
    """Completed passes over the data."""
    offset: int = 0
    """Samples of this epoch already consumed."""
