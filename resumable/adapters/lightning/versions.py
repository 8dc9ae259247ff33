"""What differs between Lightning's releases: the loops of older ones learn to go on as those of 2.5.3 and newer do.

    2.4              after a restart within an epoch, validates again where a checkpoint was saved before the validation
                     counts a batch that a checkpoint left open as not trained
                     steps the learning rate once more in an epoch of which the end alone is left
                     calls `on_train_epoch_start` for the epoch that goes on; Hooks knows that it does not begin
    2.4 to 2.5.2     cannot say that the fit goes on from a checkpoint, and asks its loaders twice for their first pass
                     an epoch whose rest `on_train_batch_start` skipped has no last batch
    2.5.3 and newer  as they are

The rest of the package knows the newest release alone. Which one it is, its loops' methods say.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, SupportsIndex, cast

from resumable.adapters import framework_of
from resumable.extras import check_release
from resumable.stopping.workers import mix_in, mixed

__all__ = ["adapt", "package_of"]


def package_of(trainer: object, /) -> str:
    """The package that *trainer* comes from: Lightning has two names."""
    return next(base.__module__.partition(".")[0] for base in type(trainer).__mro__ if framework_of(base))


def adapt(trainer: Any, /) -> None:
    """Let the loops of *trainer* go on as the newest release's; done again, it changes nothing.

    Raises:
        MissingExtraError: if the release is older than those that were tested.
    """
    fit = getattr(trainer, "fit_loop", None)
    if fit is None or hasattr(fit, "is_resuming"):  # without loops, nothing of it has begun
        return
    check_release(package_of(trainer))
    has_stages = hasattr(fit, "update_restart_stage")
    mix_in(_EpochLoop if has_stages else _EpochLoop24, fit.epoch_loop)
    mix_in(_FitLoop if has_stages else _FitLoop24, fit)
    # a loader that was handed to the fit comes here once the loops are restored, and have forgotten that
    fit.is_resuming = fit.restarting or bool(trainer.ckpt_path and fit.epoch_loop.batch_progress.total.ready)


class _Loop:
    """Mixed into a loop of Lightning's; a pickle, as spawned processes are sent, makes the class anew."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        mixin, plain = type(self).__bases__
        return _revived, (mixin, plain), vars(self)


def _revived(mixin: type[Any], plain: type[Any]) -> Any:
    return object.__new__(mixed(mixin, plain))


class _FitLoop(_Loop):
    """A fit loop of 2.5.0 to 2.5.2: says whether the fit goes on from a checkpoint, until its first epoch has ended."""

    is_resuming: bool
    _loads = 0

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        fit: Any = super()
        fit.load_state_dict(state_dict, prefix)
        self.is_resuming, self._loads = True, self._loads + 1

    def on_advance_start(self) -> None:
        """What a callback tries out and restores here is no resume, and has used up the pass that was begun."""
        loads, fit = self._loads, super()
        cast("Any", fit).on_advance_start()
        self.is_resuming = self.is_resuming and loads == self._loads

    def on_iteration_done(self) -> None:
        fit: Any = super()
        fit.on_iteration_done()
        self.is_resuming = False


class _EpochLoop(_Loop):
    """An epoch loop of 2.4 to 2.5.2: one pass for the epoch that goes on, and an end for one whose rest is skipped."""

    trainer: Any
    batch_progress: Any
    _restarting: bool
    _steps_schedulers = True
    """Whether schedulers that step at an epoch's end do."""

    def on_run_start(self, data_fetcher: Any) -> None:
        epoch_loop: Any = super()
        restarting, self._restarting = self._restarting, self._restarting or self.trainer.fit_loop.is_resuming
        try:
            epoch_loop.on_run_start(data_fetcher)
        finally:
            self._restarting = restarting
        self._steps_schedulers = True

    def advance(self, data_fetcher: Any) -> None:
        epoch_loop: Any = super()
        ready = self.batch_progress.current.ready
        try:
            epoch_loop.advance(data_fetcher)
        except StopIteration:
            if self.batch_progress.current.ready > ready:  # on_train_batch_start has returned -1
                self._steps_schedulers = epoch_loop._num_ready_batches_reached()  # as it was: an epoch with no end
                self.batch_progress.is_last_batch = True
            raise

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        epoch_loop: Any = super()
        if interval != "epoch" or self._steps_schedulers:
            epoch_loop.update_lr_schedulers(interval, update_plateau_schedulers)


class _FitLoop24(_Loop):
    """A fit loop of 2.4: reads counters of an epoch that goes on, and forgets the restart also where an error ends it."""

    is_resuming: bool
    restarting: bool
    epoch_loop: Any
    epoch_progress: Any
    _loads = 0

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        fit: Any = super()
        fit.load_state_dict(state_dict, prefix)
        self.is_resuming, self._loads = True, self._loads + 1

    def reset(self) -> None:
        fit: Any = super()
        val_loop = self.epoch_loop.val_loop
        val_loop.restarted_mid_evaluation = self.restarting and _is_within(val_loop.batch_progress.total)
        fit.reset()

    def on_advance_start(self) -> None:
        """It counts the epoch that goes on once more, so the first start is taken back; loaders may have restored it late."""
        for counters in (self.epoch_progress.current, self.epoch_progress.total):
            if self.is_resuming and counters.started == counters.ready == counters.processed + 1:
                counters.ready = counters.started = counters.processed
        loads = self._loads
        with self._forgetting_restarts():
            fit: Any = super()
            fit.on_advance_start()
        self.is_resuming = self.is_resuming and loads == self._loads  # as in newer ones

    def advance(self) -> None:
        with self._forgetting_restarts():
            fit: Any = super()
            fit.advance()

    def on_advance_end(self) -> None:
        """The schedulers of a finished epoch have stepped before its checkpoint."""
        fit: Any = super()
        self.epoch_loop._steps_schedulers = self.epoch_loop._steps_schedulers and not self.restarting
        try:
            fit.on_advance_end()
        finally:
            self._forget_restart()

    @contextmanager
    def _forgetting_restarts(self) -> Generator[None, None, None]:
        try:
            yield
        except BaseException:
            self._forget_restart()
            raise

    def _forget_restart(self) -> None:
        self._restarting = self.epoch_loop.restarting = False  # the setter of a fit loop with max_steps sets it to True
        self.is_resuming = False


class _EpochLoop24(_EpochLoop):
    """An epoch loop of 2.4: goes on after the batch of the checkpoint, and validates where that did."""

    restarting: bool
    val_loop: Any

    def reset(self) -> None:
        """A batch that a checkpoint left open is complete, and its step is counted for the loggers."""
        epoch_loop: Any = super()
        total = self.batch_progress.total
        if self.restarting and total.started == total.ready == total.processed == total.completed + 1:
            self.batch_progress.increment_completed()
            self._batches_that_stepped: int = self._batches_that_stepped + (not epoch_loop._should_accumulate())
        epoch_loop.reset()

    def advance(self, data_fetcher: Any) -> None:
        epoch_loop: Any = super()
        if self.restarting and not self.val_loop.restarted_mid_evaluation:
            self._restarting = False  # otherwise it would validate again
        epoch_loop.advance(data_fetcher)


def _is_within(total: Any) -> bool:
    return bool(total.started == total.ready == total.processed + 1 and total.completed == total.processed)
