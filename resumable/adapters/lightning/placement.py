"""Lightning's loops, set to the position where the training goes on, and back to whole epochs after it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from resumable.adapters.lightning.restart import Form, SavedLoops, has_ended, rewrite
from resumable.errors import warn
from resumable.progress import Progress
from resumable.saved.snapshot import Snapshot

__all__ = ["Placement", "TrainerProgress", "built_at", "epoch_of_loaders", "place"]

_PLATEAU = (
    "This checkpoint was saved after an epoch's last batch, before ReduceLROnPlateau's step at the epoch's end: "
    "Lightning does not save the metric, so that step is left out.\n"
    "Save in mid-epoch (every_n_train_steps) instead, and the learning rates are exact as well."
)


class TrainerProgress(Progress, Protocol):
    """A progress that hears of a trainer's callbacks, and that a placement asks about the epoch."""

    trainer: Any

    @property
    def epochs_vary(self) -> bool:
        """Whether an epoch may have another number of batches than the one before."""
        return False

    @property
    def primary_number(self) -> int:
        """The train loader, of several, whose end is the epoch's end."""
        return 0

    @property
    def accumulation(self) -> int:
        """Batches that an optimizer step accumulates."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of a batch, over all ranks."""
        ...

    @property
    def is_at_epochs_start(self) -> bool:
        """Whether nothing of the epoch was trained when it began, or when the run was resumed."""
        ...

    def is_within_epoch(self, loops: dict[str, Any], /) -> bool:
        """Whether some of the epoch is trained and some is not, if *loops* is what was saved."""
        ...

    def has_moved_on(self, saved: Snapshot, /) -> bool:
        """Whether the epoch of *saved* has no batch left; of the present size, a part is dropped."""
        ...

    def trained_batches(self, loops: dict[str, Any], /) -> int:
        """Batches of the epoch already trained, whole accumulation windows, if *loops* is what was saved."""
        ...

    def epoch_batches(self, loops: dict[str, Any] | None, /) -> int:
        """Batches of a whole epoch; of the one that has ended, if *loops* is what was saved."""
        ...

    def first_epoch_batches(self, trained: int, /) -> int | None:
        """Batches of an epoch of which *trained* are trained, where they and the rest are not a whole epoch's."""
        ...

    def train_starts(self) -> None:
        """The counters are those that the run begins with."""
        ...

    def train_ends(self) -> None:
        """The run has ended, as it should or not."""
        ...

    def epoch_starts(self) -> None:
        """An epoch begins; an epoch that goes on does not."""
        ...

    @property
    def hears_batch_start(self) -> bool:
        """Whether the start of the next batch has to be heard of."""
        return True

    def batch_starts(self) -> None:
        """A batch is about to be trained."""
        ...

    def epoch_ends(self) -> None:
        """The epoch's last batch is trained and validated."""
        ...

    @property
    def reseeds(self) -> bool:
        """Whether random numbers follow the position."""
        ...

    def reseed_at(self, moment: int, number: int | None = None, /) -> None:
        """Seed them, at a *moment* of the *number*-th batch of the pass; see `Reseeds`."""
        ...


@dataclass(slots=True)
class Placement:
    """What the counters do not hold: the form that they were brought into, and the length of a first, shorter epoch.

    *trained* batches of the epoch are trained, by the counters. *built_at_epoch* is the current epoch that
    `train_dataloader` saw.

    The first epoch is shorter than its number of batches where the rest of it is trained in batches of another size
    and whole accumulation windows, or by a trainer that counts from 0.
    """

    form: Form | None = None
    trained: int = 0
    built_at_epoch: int | None = None
    first_epoch_batches: int | None = None

    def train_starts(self, fit: Any, progress: TrainerProgress) -> None:
        """Set what Lightning derives from its counters and cannot know."""
        self.first_epoch_batches = progress.first_epoch_batches(self.trained)
        if self.form == "end" and not fit.epoch_loop.val_loop.restarted_mid_evaluation:
            fit.epoch_loop.val_loop._has_run = True  # so that the finished epoch is closed without drawing a batch
        if self.form == "begin":
            fit.epoch_loop.restarting = False  # with max_steps, Lightning takes every restored epoch for a begun one
        if self.form in ("begin", "middle"):
            fit._restarting = False  # or the epoch's end would leave out schedulers that wait for a metric
        if self.built_at_epoch is not None:
            fit._last_train_dl_reload_epoch = self.built_at_epoch  # the epoch that train_dataloader saw
        if self.first_epoch_batches is not None:
            fit.max_batches = fit._data_fetcher.length = self.first_epoch_batches
            self._validate_in(progress.trainer, fit.max_batches)

    def goes_on(self) -> bool:
        """Whether the epoch that a trainer tells its callbacks of goes on; they are then told of it."""
        told, self.form = self.form, None if self.form == "middle" else self.form
        return told in ("middle", "end")

    def epoch_starts(self, fit: Any, progress: TrainerProgress) -> None:
        """Give the epochs after a shorter first one their whole length again."""
        if (self.first_epoch_batches is not None or progress.epochs_vary) and progress.is_at_epochs_start:
            self.first_epoch_batches = None
            fit.max_batches = batches = progress.epoch_batches(None)
            if progress.epochs_vary:  # Lightning would limit all epochs to the one that the loader was set up in
                limits = fit._combined_loader.limits
                fit._combined_loader.limits = [
                    batches if number == progress.primary_number else limit for number, limit in enumerate(limits)
                ]
                fit._data_fetcher.length = batches
            self._validate_in(progress.trainer, fit.max_batches)

    def _validate_in(self, trainer: Any, batches: int) -> None:
        """Validate where a `val_check_interval` that is a part of the epoch says, in an epoch of so many batches."""
        if isinstance(trainer.val_check_interval, float) and isinstance(trainer.val_check_batch, int):
            trainer.val_check_batch = max(1, int(batches * trainer.val_check_interval))

    def batch_starts(self, trainer: Any, pl_module: Any) -> None:
        """Tell the callbacks that need it of an epoch that goes on; Lightning tells them of one that begins."""
        if self.form != "middle":
            return
        self.form = None
        for callback in trainer.callbacks:
            is_progress_bar = callback is trainer.progress_bar_callback
            if is_progress_bar or hasattr(callback, "get_accumulate_grad_batches"):
                callback.on_train_epoch_start(trainer, pl_module)

    def epoch_ends(self, fit: Any) -> None:
        """Clear the mark of a restart, as Lightning does after a batch: a finished epoch has no batch left."""
        if self.form == "end":
            fit.epoch_loop.restarting = False
        self.form = None


def place(progress: TrainerProgress, restored: SavedLoops | None, saved: Snapshot, /) -> Placement:
    """Set the fit loop to the progress's position, if it goes on from *restored* counters.

    A trainer without restored counters counts the rest of an epoch from 0.
    """
    if restored is None:
        return Placement(None, 0, progress.trainer.current_epoch)
    built_at_epoch = epoch_of_loaders(progress.trainer)
    loops = restored.as_saved()
    _end_where_the_data_did(loops, saved)
    trained = progress.trained_batches(loops)
    form = _form(progress, loops, saved)
    then = saved.ledger.stretches[-1] if saved.ledger.stretches else None
    rewrite(
        loops,
        form,
        batches=progress.epoch_batches(loops) if form == "end" else trained,
        accumulation=progress.accumulation if then is None else then.accumulation,
        same_batches=then is None or then.batching.batch_size == progress.batch_size,
        moved_on=progress.has_moved_on(saved),
    )
    restored.restore(loops, progress.trainer.fit_loop)
    return Placement(form, trained, built_at_epoch)


def _end_where_the_data_did(loops: dict[str, Any], saved: Snapshot) -> None:
    """Let an epoch be over whose last batch is trained, of a loader whose length promised more of them."""
    last, batch = saved.ledger.stretches[-1:], loops["epoch_loop.batch_progress"]
    current = batch["current"]
    is_whole = last and not last[0].is_unknown and current["processed"] >= last[0].batching.batches
    if is_whole and not saved.offset and current["processed"] == current["ready"]:
        batch["is_last_batch"] = True


def epoch_of_loaders(trainer: Any, /) -> int:
    """The epoch in which the uninterrupted run asked for the loaders of the current one."""
    epoch, every = trainer.current_epoch, trainer.reload_dataloaders_every_n_epochs
    return int(epoch - epoch % every if every else epoch)


@contextmanager
def built_at(progress: Any, epoch: int, /) -> Generator[None, None, None]:
    """Let the epoch *progress* say that the current epoch is *epoch*, for the loaders that are built in the block."""
    completed, progress.completed = progress.completed, epoch
    try:
        yield
    finally:
        progress.completed = completed


def _form(progress: TrainerProgress, loops: dict[str, Any], saved: Snapshot) -> Form:
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    ended, moved_on = has_ended(loops), progress.has_moved_on(saved)
    form: Form = "begin"
    if progress.is_within_epoch(loops) and not moved_on:
        form = "middle"
    elif epoch["started"] > epoch["processed"] and (ended or moved_on or saved.offset):
        is_validated = batch["current"]["completed"] == batch["current"]["processed"]
        form = "end" if is_validated else "begin"
    is_open = epoch["completed"] < epoch["processed"] or epoch["started"] > epoch["processed"]
    if ended and is_open and any(config.reduce_on_plateau for config in progress.trainer.lr_scheduler_configs):
        warn(_PLATEAU)
    return form
