"""`log=True` under Lightning: where the run is, in its loggers, whenever Lightning logs a step's metrics itself.

resumable/consumed_samples     after the step
resumable/epoch                that the next sample belongs to
resumable/global_batch_size    of the next step
resumable/resumed_at           once, as a resumed session begins: the samples that were consumed then
"""

from __future__ import annotations

from typing import Any

from resumable.errors import ResumptionError
from resumable.progress import Progress
from resumable.saved.ledger import Stretch
from resumable.saved.schedule_format import UserSchedule

__all__ = ["log_resume", "log_step"]


def log_step(trainer: Any, progress: Progress, /) -> None:
    """Log the position, if *trainer* logs the step that has just ended. A batch whose gradients are accumulated is no step."""
    connector, fit = trainer._logger_connector, trainer.fit_loop
    if not connector.should_update_logs or fit._should_accumulate():
        return
    at, stretch = progress.position, progress.present_stretch
    metrics: dict[str, Any] = {"resumable/consumed_samples": at.consumed_samples, "resumable/epoch": at.epoch}
    size = None if stretch is None else _size_at(stretch, at.consumed_samples)
    if size is not None:
        metrics["resumable/global_batch_size"] = size
    connector.log_metrics(metrics, step=fit.epoch_loop._batches_that_stepped)


def log_resume(trainer: Any, progress: Progress, /) -> None:
    """Log that a session begins, unless it begins the run."""
    at = progress.position
    if at.consumed_samples:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        trainer._logger_connector.log_metrics({"resumable/resumed_at": at.consumed_samples}, step=step)


def _size_at(stretch: Stretch, consumed_samples: int) -> int | None:
    schedule = stretch.schedule
    if schedule is None:
        return stretch.global_batch_size
    try:
        known = schedule.known if isinstance(schedule, UserSchedule) else schedule
        return known.batch_size_at(consumed_samples)
    except ResumptionError:  # only another program knows its sizes
        return None
