"""Lightning's loops, set to the place where the training goes on, and back to whole epochs behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resumable.adapters.lightning.frontier import LightningFrontier
from resumable.adapters.lightning.loops import Form, rewrite
from resumable.batching import UNBOUNDED
from resumable.errors import warn
from resumable.saved import Saved

__all__ = ["Placement", "place"]

_PLATEAU = (
    "This checkpoint was saved on an epoch's last batch, before its validation: Lightning does not save the metrics, "
    "so the step of ReduceLROnPlateau at that epoch's end is left out.\n"
    "Save at the epoch's end or at the validation's end instead, and the resume is exact."
)


@dataclass(slots=True)
class Placement:
    """What the counters cannot say: the form that they were brought into, and the length of a first, shorter epoch.

    *built_at_epoch* is what `train_dataloader` saw as the current epoch, before the counters were set.

    The first epoch is shorter than its number of batches where the rest of it is trained in batches of another size
    and whole accumulation windows, or by a trainer that counts from 0.
    """

    form: Form | None = None
    first_epoch_batches: int | None = None
    built_at_epoch: int | None = None

    def train_starts(self, fit: Any) -> None:
        """Set what Lightning derives from its counters and cannot know."""
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

    def epoch_starts(self, fit: Any, frontier: LightningFrontier) -> None:
        """Give the epochs behind a shorter first one their whole length again."""
        if self.first_epoch_batches is not None and frontier.anchor.offset == 0:
            self.first_epoch_batches = None
            fit.max_batches = frontier.primary.batching.batches

    def batch_starts(self, trainer: Any, pl_module: Any) -> None:
        """Tell those callbacks of an epoch that goes on who need to know, which Lightning does where one begins."""
        if self.form != "middle":
            return
        self.form = None
        for callback in trainer.callbacks:
            is_progress_bar = callback is trainer.progress_bar_callback
            if is_progress_bar or hasattr(callback, "get_accumulate_grad_batches"):
                callback.on_train_epoch_start(trainer, pl_module)

    def epoch_ends(self, fit: Any) -> None:
        """Clear the mark of a restart, as Lightning does behind a batch: a finished epoch has none left."""
        if self.form == "end":
            fit.epoch_loop.restarting = False
        self.form = None


def place(frontier: LightningFrontier, loops: dict[str, Any] | None, saved: Saved, /) -> Placement:
    """Set the fit loop to the frontier's position: in *loops*, which it has yet to restore, or in itself.

    A trainer without restored counters counts the rest of an epoch from 0.
    """
    fit, batching, offset = frontier.trainer.fit_loop, frontier.primary.batching, frontier.anchor.offset
    left, whole = batching.batches_left(offset), batching.batches
    behind = whole - left if batching.length < UNBOUNDED else offset // batching.batch_size
    built_at_epoch = frontier.trainer.current_epoch
    if fit.is_resuming:
        loops = fit.state_dict()
    if loops is None:
        form, behind = None, 0
    else:
        behind = behind - behind % frontier.accumulation if offset else 0
        form = _rewrite(frontier, loops, behind, saved)
        if fit.is_resuming:
            fit.load_state_dict(loops)
    is_whole = not offset or behind + left == whole or batching.length >= UNBOUNDED
    return Placement(form, None if is_whole else behind + left, built_at_epoch)


def _rewrite(frontier: LightningFrontier, loops: dict[str, Any], behind: int, saved: Saved) -> Form:
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    ended = batch["is_last_batch"] and batch["current"]["processed"] == batch["current"]["ready"]
    form: Form = "begin"
    if frontier.anchor.offset:
        form = "middle"
    elif epoch["started"] > epoch["processed"] and (ended or saved.offset):
        is_validated = batch["current"]["completed"] == batch["current"]["processed"]
        form = "end" if is_validated else "begin"
        if not is_validated and any(config.reduce_on_plateau for config in frontier.trainer.lr_scheduler_configs):
            warn(_PLATEAU)
    batching = frontier.primary.batching
    then = saved.ledger.stretches[-1] if saved.ledger.stretches else None
    rewrite(
        loops,
        form,
        batches=batching.batches if form == "end" else behind,
        accumulation=frontier.accumulation if then is None else then.accumulation,
        same_batches=then is None or then.micro_batch_size == batching.batch_size,
    )
    return form
