"""A trainer that saves and ends its fit at a step boundary, once its process was asked to stop (`stop_on`).

    on_train_start            the watched signals set the flag, and Lightning's own handler is no longer called
    on_train_batch_end        after an optimizer step: was any rank asked?    then Lightning ends the fit, once all
    on_validation_batch_end   the same                                        callbacks have had this batch
    on_exception              it ends with its SIGTERMException, a SystemExit of status 0: a ModelCheckpoint saves

Lightning's own answer to SIGTERM (lightning 2.6, trainer/connectors/signal_connector.py and training_epoch_loop.py) ends
the fit after any batch, also inside an accumulation window, saves nothing unless a callback was told to save on
exceptions, and calls a collective from the signal handler, which the ranks reach at different steps.
"""

from __future__ import annotations

import signal
from math import isinf
from typing import Any

from resumable.errors import warn
from resumable.loading.dataloader import is_dataloader
from resumable.stopping.signals import received, request_stop, stop_requested, take_back, watched
from resumable.stopping.workers import shield

__all__ = ["FitStop"]


class FitStop:
    """Whether and where a trainer's fit is to end before its time."""

    def __init__(self) -> None:
        self.is_watching: bool = False
        self.is_watching_validation: bool = False

    def train_starts(self, trainer: Any) -> None:
        """The trainer has installed its own signal handlers, and built the validation loaders."""
        self.is_watching = _on_any_rank(trainer, bool(watched()))
        if self.is_watching:
            take_back()
            if stop_requested():
                trainer._signal_connector.received_sigterm = False  # it would end the fit inside a window
            _shield_validation(trainer.fit_loop.epoch_loop.val_loop._combined_loader)

    def batch_ends(self, trainer: Any) -> None:
        """A training batch is done."""
        if self.is_watching and not trainer.fit_loop.epoch_loop._should_accumulate():
            _end_if_asked(trainer)

    def validation_starts(self, trainer: Any) -> None:
        """Ask during a validation only if all ranks have the same batches, since each time is a collective."""
        is_in_training = self.is_watching and trainer.state.fn == "fit" and not trainer.sanity_checking
        self.is_watching_validation = is_in_training and _validates_alike(trainer)

    def validation_batch_ends(self, trainer: Any) -> None:
        """A validation batch is done."""
        if self.is_watching_validation:
            _end_if_asked(trainer)

    def ends(self, trainer: Any, exception: BaseException) -> None:
        """The fit ends before its time."""
        was_asked = self.is_watching and stop_requested() and isinstance(exception, SystemExit)
        self.is_watching = self.is_watching_validation = False
        if was_asked and not trainer.sanity_checking and not trainer.fast_dev_run:
            number = _requeue_signal(trainer)
            if number is None:
                _save(trainer)
            else:  # Lightning's own save for a job that Slurm begins anew, and its `scontrol requeue`
                trainer._signal_connector._slurm_sigusr_handler_fn(number, None)


def _shield_validation(combined_loader: Any) -> None:
    """Shield the validation loaders, and end the workers that a sanity check has left alive: the next are others."""
    loaders: list[Any] = [] if combined_loader is None else combined_loader.flattened
    for loader in loaders:
        if is_dataloader(loader):
            alive: Any = getattr(shield(loader), "_iterator", None)
            if hasattr(alive, "_shutdown_workers"):
                alive._shutdown_workers()
            vars(loader)["_iterator"] = None


def _on_any_rank(trainer: Any, decision: bool) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False)) if trainer.world_size > 1 else decision


def _end_if_asked(trainer: Any) -> None:
    if _on_any_rank(trainer, stop_requested()):
        request_stop()
        trainer._signal_connector.received_sigterm = True


def _validates_alike(trainer: Any) -> bool:
    """Whether each rank's validation has the same, known number of batches."""
    if trainer.world_size == 1:
        return True
    batches = list(trainer.fit_loop.epoch_loop.val_loop.max_batches)
    firsts = trainer.strategy.broadcast(batches)
    return bool(trainer.strategy.reduce_boolean_decision(batches == firsts and not any(map(isinf, batches)), all=True))


def _requeue_signal(trainer: Any) -> signal.Signals | None:
    """The signal of Slurm's that came, if Lightning is to put the job into the queue again when it comes.

    It does so by default under Slurm, but leaves the signal to a handler that is already installed.
    """
    environment = trainer._accelerator_connector.cluster_environment
    number: signal.Signals | None = getattr(environment, "requeue_signal", None)
    if number is None or not environment.auto_requeue or not _on_any_rank(trainer, number in received()):
        return None
    return number


def _save(trainer: Any) -> None:
    """Let one ModelCheckpoint save as it does on exceptions: one that keeps a last checkpoint, otherwise the first.

    A checkpoint that it has saved of this very step stands. Lightning has no public way to make a callback save.
    """
    callbacks: list[Any] = trainer.checkpoint_callbacks
    savers = [each for each in callbacks if hasattr(each, "save_last") and not each.save_weights_only]
    if savers:
        saver = next((each for each in savers if each.save_last), savers[0])
        if saver._last_global_step_saved != trainer.global_step:
            metrics = saver._monitor_candidates(trainer)
            saver._save_checkpoint(trainer, saver.format_checkpoint_name(metrics))
            saver._save_last_checkpoint(trainer, metrics)
    elif all(hasattr(each, "save_last") for each in callbacks):  # otherwise a callback of the user's may save
        warn(
            "The run was asked to stop, and nothing is saved: no callback of the trainer saves whole checkpoints.\n"
            "Give it a ModelCheckpoint."
        )
