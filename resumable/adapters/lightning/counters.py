"""How many batches were trained, by Lightning's loop counters.

Counting reads `batch_progress`, which knows what was processed: what a loader yielded runs ahead after an exception,
and `global_step` counts twice with two optimizers and half with two accumulated batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resumable.loading.cursor import more_than_yielded

__all__ = ["BatchCount", "EpochCount", "trained"]


class BatchCount:
    """The batches of completed optimizer steps since the last mark, within one epoch or the rest of one."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._first_batch: int | None = None
        self._committed: int | None = None

    @property
    def accumulation(self) -> int:
        """Batches that an optimizer step accumulates; 1 where the module steps by hand."""
        module = self.trainer.lightning_module
        is_automatic = module is None or bool(module.automatic_optimization)
        return int(self.trainer.accumulate_grad_batches) if is_automatic else 1

    @property
    def now(self) -> EpochCount:
        """What the counters say of the epoch."""
        return self._now(has_read_all=self.has_read_all)

    @property
    def restored(self) -> EpochCount:
        """The same of counters that were restored: what the trainer has read before does not belong to them."""
        return self._now(has_read_all=False)

    def _now(self, *, has_read_all: bool) -> EpochCount:
        fit = self.trainer.fit_loop
        batch = fit.epoch_loop.batch_progress
        return trained(
            fit.epoch_progress.current,
            batch.current,
            # Lightning does not call it the last one where the loaders yield fewer than their length
            is_last_batch=batch.is_last_batch or has_read_all,
            max_batches=fit.max_batches,
            accumulation=self.accumulation,
        )

    @property
    def has_read_all(self) -> bool:
        """Whether the trainer has drawn all that the epoch has."""
        fetcher = self.trainer.fit_loop._data_fetcher
        return fetcher is not None and bool(fetcher.done)

    @property
    def first_batch(self) -> int:
        """The first counted batch's number in its epoch."""
        return self._first_batch or 0

    @property
    def is_counting(self) -> bool:
        """Whether a batch has begun since the last mark."""
        return self._first_batch is not None

    @property
    def begun(self) -> int:
        """Batches that have begun since the last mark."""
        if self._first_batch is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready) - self._first_batch

    def mark(self) -> None:
        """Count nothing before the next batch begins: until then the counters are still the old ones."""
        self._first_batch = self._committed = None

    def batch_starts(self) -> None:
        """Note what Lightning's counters count from: the first batch of an epoch, or of its rest."""
        if self._first_batch is None:
            self._first_batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1

    def commit(self, batches: int | None = None) -> None:
        """The batch that is being trained, and all before it, are trained; or *batches* more of them."""
        started = self.trainer.fit_loop.epoch_loop.batch_progress.current.started
        if batches is None:
            self._committed = started
            return
        before = self.first_batch if self._committed is None else self._committed
        begun = started - before if self.is_counting else 0
        if batches > begun:
            raise more_than_yielded(batches, ("begun since the last commit", begun))
        if batches:
            self._committed = before + batches

    def done(self, *, committed_only: bool = False) -> tuple[int, bool]:
        """Batches trained since the mark, and whether the epoch has ended."""
        if self._first_batch is None:
            return 0, False
        now = self.now
        if committed_only:
            committed = self._first_batch if self._committed is None else self._committed
            return committed - self._first_batch, now.ended and committed >= now.batches
        return max(0, now.batches - self._first_batch), now.ended


@dataclass(frozen=True, slots=True)
class EpochCount:
    """What Lightning's counters say, at a save or restored: of which epoch how many batches are trained."""

    epoch: int
    batches: int
    in_epoch: bool
    ended: bool


def trained(epoch: Any, batch: Any, *, is_last_batch: bool, max_batches: float, accumulation: int) -> EpochCount:
    """The batches of completed optimizer steps, from the `current` counters of epochs and batches.

    `on_train_batch_start` may skip an epoch's rest by returning -1; Lightning then counts the batch as processed but
    not as started. An epoch's last batch always steps.
    """
    in_epoch = epoch.started > epoch.processed
    ended = batch.processed >= max_batches or (is_last_batch and batch.processed == batch.ready)
    batches = min(batch.started, batch.processed)
    if not ended:
        batches -= batches % accumulation
    return EpochCount(epoch.processed if in_epoch else max(0, epoch.processed - 1), batches, in_epoch, ended)
