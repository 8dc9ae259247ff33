"""Lightning's saved loop counters, rewritten so that its loops go on where the position says. Pure dict arithmetic.

Lightning restores its counters from the checkpoint and derives from them what it calls restart stages. They can only
say that the run goes on after the last batch that was *processed*, counted in batches of the old size. Three of them
lose or repeat something (lightning 2.6: `loops/fit_loop.py`, `loops/training_epoch_loop.py`):

    a checkpoint inside an accumulation window   the window's gradients are gone, its batches are not trained again
    saved on an epoch's last batch               the next epoch begins without its hooks, a second resume replays it
    saved at an epoch's end, with max_steps      one more pass over the epoch that has ended

So there are three forms here, and every checkpoint is brought into one of them:

    begin     nothing of an epoch is trained
    middle    the first batches of an epoch are trained, up to a whole optimizer step
    end       all of an epoch is trained and validated, and its end (the hooks) is still to come

A checkpoint that is saved on an epoch's last batch, before the validation, begins with the next epoch, as in Lightning:
the metrics that the epoch's end would need are not saved.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

__all__ = ["Form", "SavedLoops", "has_ended", "rewrite"]

Form = Literal["begin", "middle", "end"]


class SavedLoops:
    """A checkpoint's loop counters as they were saved, since a train loader may be asked for more than once."""

    def __init__(self, read_by_lightning: dict[str, Any]) -> None:
        self._read_by_lightning = read_by_lightning
        self._as_saved = deepcopy(read_by_lightning)

    def as_saved(self) -> dict[str, Any]:
        """A new copy, to be rewritten."""
        return deepcopy(self._as_saved)

    def restore(self, loops: dict[str, Any], fit: Any) -> None:
        """Let *fit* go on from *loops*: Lightning is about to read them, or has read the saved ones already."""
        self._read_by_lightning.update(loops)
        if fit.is_resuming:
            fit.load_state_dict(loops)


def has_ended(loops: dict[str, Any], /) -> bool:
    """Whether a saved epoch had no further batch: its last was processed, or one has found too little data left."""
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    ready, processed = batch["current"]["ready"], batch["current"]["processed"]
    is_closed = epoch["started"] == epoch["processed"]
    return bool(batch["is_last_batch"] and processed == ready) or (is_closed and ready > processed)


def rewrite(
    loops: dict[str, Any], form: Form, *, batches: int, accumulation: int, same_batches: bool, moved_on: bool = False
) -> None:
    """Bring a fit loop's state dict into *form*, with *batches* batches of the epoch trained; the dict is changed.

    *same_batches* says that a batch is what it was at the save, so that what is taken back can be counted. *moved_on*
    says that the epoch has no batch left of the present size, though it had one of the saved size.
    """
    epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    in_epoch = epoch["current"]["started"] > epoch["current"]["processed"]
    raw = min(batch["current"]["started"], batch["current"]["processed"])
    ended = has_ended(loops)
    steps_logged = loops["epoch_loop.state_dict"].get("_batches_that_stepped", 0)
    if in_epoch and batch["current"]["ready"] == batch["current"]["processed"] and (ended or raw % accumulation == 0):
        steps_logged += 1  # Lightning counts the last step only after the hooks in which checkpoints are saved

    ended = ended or moved_on
    taken_back = max(0, raw - batches) if form == "middle" and same_batches else 0
    if form == "begin" and not ended:
        taken_back = raw
    total = min(batch["total"]["started"], batch["total"]["processed"]) - taken_back

    for counters in (epoch["current"], epoch["total"]):
        # an epoch that was stopped before its end counts as processed, and is to be gone on with
        was_stopped = not in_epoch and counters["processed"] > 0 and (form == "middle" or not ended)
        closed = counters["processed"] - was_stopped + (form == "begin" and in_epoch and ended)
        opened = closed if form == "begin" else closed + 1
        counters.update(ready=opened, started=opened, processed=closed, completed=closed)

    # the last batch's "completed" is left open, as in a checkpoint that is saved in on_train_batch_end: Lightning then
    # closes it, and neither repeats the validation after it nor counts its step twice
    left_open = form == "middle" and batches > 0 and not _mid_validation(loops)
    current = 0 if form == "begin" else batches
    for counters, count in ((batch["current"], current), (batch["total"], total)):
        counters.update(ready=count, started=count, processed=count, completed=count - left_open)
    # of "begin" too, as Lightning leaves a finished epoch: a session that trains nothing may save the counters again, and
    # without it they are those of an epoch that was stopped before its first batch
    batch["is_last_batch"] = form == "end" or (form == "begin" and epoch["current"]["processed"] > 0)
    unfinished = form == "middle" or (form == "end" and _mid_validation(loops))
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = steps_logged - unfinished
    loops["state_dict"].pop("combined_loader", None)


def _mid_validation(loops: dict[str, Any]) -> bool:
    """Whether the checkpoint was saved inside a validation, which Lightning then finishes first."""
    total = loops["epoch_loop.val_loop.batch_progress"]["total"]
    started, processed = total["started"], total["processed"]
    return bool(total["ready"] == started and processed == started - 1 and total["completed"] == processed)
