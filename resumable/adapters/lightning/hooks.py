"""The callback that tells a tracker what the trainer does, first among the trainer's callbacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Final

from resumable.adapters.lightning.logged import log_resume, log_step
from resumable.adapters.lightning.placement import Placement, TrainerProgress
from resumable.adapters.lightning.reseeding import reseed_from
from resumable.adapters.lightning.restart import SavedLoops
from resumable.adapters.lightning.stopping import FitStop
from resumable.adapters.lightning.versions import package_of
from resumable.loading.dataloader import is_dataloader
from resumable.loading.reseeding import STEP_BEGINS
from resumable.progress import Tracker
from resumable.stopping.workers import pass_is_over

__all__ = ["Hooks", "hooks_of"]

_OF_A_BATCH: Final = re.compile("^on_(before|after)_|_batch_(start|end)$")


class Hooks:
    """What the trainer's callbacks are told, for one tracker.

    A hook of each batch is None where there is nothing to do in it: Lightning skips what it cannot call. For a method that
    does nothing it opens a profiler's context, six times a step.
    """

    tracker: Tracker
    package: str
    progress: TrainerProgress | None = None
    placement: Placement
    stopping: FitStop
    loops: SavedLoops | None = None
    is_loaded = False
    logs_resume: bool = False
    run: Any = None
    """The loaders that were handed to the trainer's fits."""
    tried_for: Tracker | None = None
    """The tracker of the fit in which a callback tries something out, which this one stands in for."""
    built: Any = None
    """The loaders that the trainer had when a state was loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A spawned process makes its own class, and connects anew."""
        return _hooks, (self.package, self.tracker)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Another run of the trainer: what an earlier one restored is not for this one."""
        self.loops = self.built = None
        self._release()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A run that has loaded a state and ended without asking for loaders keeps those that it had."""
        if trainer.fit_loop._combined_loader is None:
            trainer.fit_loop._combined_loader = self.built
        self.built = None

    def _release(self) -> None:
        if self.run is not None:
            self.run.release()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the loop counters, which Lightning restores from this very dict."""
        loops = checkpoint.get("loops", {}).get("fit_loop")
        if trainer.state.fn == "fit" and loops is not None:
            self.loops = SavedLoops(loops)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Leave out the empty states of the loaders, which a class without the decorator could not load."""
        fit = checkpoint["loops"]["fit_loop"]["state_dict"]
        if not any(fit.get("combined_loader", ())):
            fit.pop("combined_loader", None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The loops are restored and about to run."""
        if self.progress is not None:
            self.loops = None
            self.progress.train_starts()
            self.placement.train_starts(trainer.fit_loop, self.progress)
            self.stopping.train_starts(trainer)
            self.logs_resume = self.tracker.logs
            self._reseed_from(trainer, self.progress)

    def _reseed_from(self, trainer: Any, progress: TrainerProgress) -> None:
        if progress.reseeds:
            reseed_from(trainer.fit_loop, progress.reseed_at)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A new epoch, or the first one of a trainer without restored counters; Lightning 2.4 begins each one anew."""
        if self.progress is not None and not self.placement.goes_on():
            self.progress.epoch_starts()
            self.placement.epoch_starts(trainer.fit_loop, self.progress)
            self._reseed_from(trainer, self.progress)

    @property
    def on_train_batch_start(self) -> Callable[..., None] | None:
        """Counting begins with the first batch."""
        progress = self.progress
        hears = progress is not None and (progress.hears_batch_start or progress.audit is not None)
        return self._batch_starts if hears else None

    def _batch_starts(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        if self.progress is not None:
            self.progress.batch_starts()
            self.placement.batch_starts(trainer, pl_module)
            self._note_trained(self.progress)
            if self.logs_resume:  # not before: only here Lightning's own count of steps is that of the next one
                self.logs_resume = False
                log_resume(trainer, self.progress)
            if self.progress.reseeds:
                self.progress.reseed_at(STEP_BEGINS)

    def _note_trained(self, progress: TrainerProgress) -> None:
        if progress.audit is not None:
            progress.audit.note(progress)

    @property
    def on_train_batch_end(self) -> Callable[..., None] | None:
        """The fit may be asked to end here, and its position is logged."""
        return self._batch_ends if self.stopping.is_watching or self.tracker.logs else None

    def _batch_ends(self, trainer: Any, pl_module: Any, *outputs_and_batch: Any) -> None:
        if self.tracker.logs and self.progress is not None:
            log_step(trainer, self.progress)
        if self.stopping.is_watching:
            self.stopping.batch_ends(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A validation of any length may be asked to end."""
        self.stopping.validation_starts(trainer)

    @property
    def on_validation_batch_end(self) -> Callable[..., None] | None:
        """The fit may be asked to end here."""
        return self._validation_batch_ends if self.stopping.is_watching_validation else None

    def _validation_batch_ends(self, trainer: Any, pl_module: Any, *outputs_and_batch: Any) -> None:
        self.stopping.validation_batch_ends(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """What was counted is folded, before another callback saves a checkpoint."""
        if self.progress is not None:
            self.progress.epoch_ends()
            self.placement.epoch_ends(trainer.fit_loop)
            self._note_trained(self.progress)
            for loader in trainer.fit_loop._combined_loader.flattened:
                if is_dataloader(loader):
                    pass_is_over(loader)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A state may be loaded again."""
        if self.progress is not None:
            self.progress.train_ends()
            self._note_trained(self.progress)
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """A state may be loaded again; a fit that was asked to end is saved."""
        if self.progress is not None:
            self.progress.train_ends()
        self._release()
        self.stopping.ends(trainer, exception)


@cache
def _class_for(package: str) -> type[Any]:
    callback: type[Any] = import_module("lightning.pytorch" if package == "lightning" else package).Callback
    skipped = {name: None for name in vars(callback) if _OF_A_BATCH.search(name) and not hasattr(Hooks, name)}
    return type("ResumptionHooks", (Hooks, callback), {"__doc__": Hooks.__doc__, **skipped})


def _hooks(package: str, tracker: Tracker) -> Hooks:
    hooks: Hooks = _class_for(package)()
    hooks.package, hooks.tracker, hooks.placement, hooks.stopping = package, tracker, Placement(), FitStop()
    return hooks


def hooks_of(trainer: Any, tracker: Tracker) -> Hooks:
    """The hook object of *tracker* among the trainer's callbacks, the first of them: the others may save a checkpoint.

    Where it is missing and *tracker* counts, another callback has put the callbacks aside to try something out, which it
    will undo: that is counted by a tracker of its own.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, Hooks) and tracker in (callback.tracker, callback.tried_for):
            return callback
    package = package_of(trainer)
    if tracker.progress is not None and tracker.progress.is_running:
        hooks = _hooks(package, Tracker())
        hooks.tried_for = tracker
    else:
        hooks = _hooks(package, tracker)
    # a new list, since somebody may be iterating over the old one; the learning rate finder looks for itself at its head
    heads = 1 if hasattr(next(iter(trainer.callbacks), None), "lrs") else 0
    trainer.callbacks = [*trainer.callbacks[:heads], hooks, *trainer.callbacks[heads:]]
    return hooks
