"""Sessions of a loop that write an audit, for what reads one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resumable import BatchSchedule, ResumableLoader

__all__ = ["session"]


def session(
    folder: Path | None,
    sizes: tuple[int, int],
    steps: int,
    *,
    beyond: int = 0,
    state: dict[str, Any] | None = None,
    schedule: BatchSchedule | None = None,
    samples: int = 1000,
) -> dict[str, Any]:
    """Train *steps* steps on (ranks, micro batch) of *sizes*, save, and go on for *beyond* steps that nobody resumes from."""
    ranks, micro = sizes
    saved: dict[str, Any] = {}
    for rank in range(ranks):
        loader = ResumableLoader(
            range(samples),
            micro,
            shuffle=True,
            schedule=schedule,
            audit=folder,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
        )
        if state is not None:
            loader.load_state_dict(state)
        loader.commit()
        batches = loader.forever()
        for _ in range(steps):
            _step(loader, batches)
        saved = loader.state_dict()
        for _ in range(beyond):
            _step(loader, batches)
    return saved


def _step(loader: ResumableLoader[Any], batches: Iterator[Any]) -> None:
    for _ in range(loader.num_microbatches):
        next(batches)
    loader.commit()
