"""How a session ends: what writes its checkpoint, where it stops, and by what.

        saved_after_step(3)      ModelCheckpoint(every_n_train_steps=3), one more step, then an exception
        saved_at_epoch_end(1)    ModelCheckpoint at the end of each epoch, two more batches, then an exception
        saved_at_validation(...) ModelCheckpoint at the end of each validation, until an exception
        saved_in("hook", ...)    trainer.save_checkpoint() in any hook, one more batch, then an exception
        raised_in("hook", ...)   ModelCheckpoint(save_on_exception=True) and an exception in any hook
        interrupted, sigterm     the same, by Ctrl-C and by the signal
        sigkill                  ModelCheckpoint(every_n_train_steps=...), in a process of its own, and the signal
        stopped                  trainer.should_stop in mid-epoch, then trainer.save_checkpoint()

A place is an (epoch, batch_idx). Where training goes on behind a checkpoint, what it trained there must count for nothing.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.support.recording import Recording

also_with_workers = pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
"""For a grid of cases: workers take a second for each, so that one chain of cuts has to do in every run."""

_FILE = "cut"
_STEPS = ("training_step", "validation_step")
"""The places that no callback sees; the module itself tells when it comes there."""

LoaderPosition: TypeAlias = "tuple[int, int]"
When: TypeAlias = "Callable[[L.Trainer], bool]"


class Killed(Exception):
    """What a session dies of."""


@dataclass(frozen=True, repr=False)
class Cut:
    """A session ends in *hook*, the first time that *when* holds there, by *action*."""

    name: str
    saver: Callable[[Path], L.Callback] | None
    hook: str
    when: When
    action: Callable[[L.Trainer], None]
    ends_with: type[BaseException] | None = Killed
    kills_process: bool = False

    def __repr__(self) -> str:
        return self.name

    def carry_out(self, train: Callable[..., L.Trainer], folder: Path) -> None:
        """Call *train* with the callbacks that save and end the session, and see it end."""
        if self.kills_process:
            child = multiprocessing.get_context("fork").Process(target=self._end, args=(train, folder))
            child.start()
            child.join()
            assert -signal.SIGKILL == child.exitcode, f"the session never came to {self}"
        else:
            self._end(train, folder)
        assert checkpoint_in(folder).exists(), f"{self} left no checkpoint"

    def _end(self, train: Callable[..., L.Trainer], folder: Path) -> None:
        ender = _InHook(self.hook, self.when, self.action)
        saver = [self.saver(folder)] if self.saver else []
        with pytest.raises(self.ends_with) if self.ends_with else nullcontext():
            trainer = train(ender, *saver)
            if not self.saver:
                trainer.save_checkpoint(checkpoint_in(folder))
        assert ender.done, f"the session never came to {self}"


def checkpoint_in(folder: Path) -> Path:
    """The file that a cut session leaves in *folder*."""
    return folder / f"{_FILE}.ckpt"


class _InHook(L.Callback):
    """Do something once, in a hook of Lightning's, or in the module's training_step or validation_step."""

    def __init__(self, hook: str, when: When, action: Callable[[L.Trainer], None]) -> None:
        self.done = False
        self._hook, self._when, self._action = hook, when, action
        if hook not in _STEPS:
            setattr(self, hook, self._reach)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._hook in _STEPS:
            assert isinstance(pl_module, Recording)
            pl_module.reached = lambda place: self._reach(trainer) if place == self._hook else None

    def _reach(self, trainer: L.Trainer, *_: object, **__: object) -> None:
        if not self.done and self._when(trainer):
            self.done = True
            self._action(trainer)


def at(place: LoaderPosition) -> When:
    """True in the hooks around the batch at *place*."""
    return lambda trainer: (trainer.current_epoch, trainer.fit_loop.batch_idx) == place


def _kill(trainer: L.Trainer) -> None:
    raise Killed


def _press_ctrl_c(trainer: L.Trainer) -> None:
    raise KeyboardInterrupt


def _send(number: signal.Signals, trainer: L.Trainer) -> None:
    os.kill(os.getpid(), number)


def _stop(trainer: L.Trainer) -> None:
    trainer.should_stop = True


def _checkpoint(**options: Any) -> Callable[[Path], L.Callback]:
    return lambda folder: ModelCheckpoint(folder, filename=_FILE, enable_version_counter=False, **options)


def _on_exception(folder: Path) -> L.Callback:
    """`ModelCheckpoint(save_on_exception=True)`, or what saves as it does in Lightning before 2.5.3, which has no such option."""
    if "save_on_exception" in inspect.signature(ModelCheckpoint).parameters:
        return _checkpoint(save_on_exception=True, every_n_train_steps=0)(folder)
    return _SavesOnException(folder, filename=_FILE, enable_version_counter=False, every_n_train_steps=0)


class _SavesOnException(ModelCheckpoint):
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_checkpoint(trainer, self.format_checkpoint_name(self._monitor_candidates(trainer)))


def on_any_exception(folder: Path) -> L.Callback:
    """Saves on exceptions also before the first step, and where a step is saved already; ModelCheckpoint does not."""
    return _InHook("on_exception", lambda _: True, lambda trainer: trainer.save_checkpoint(checkpoint_in(folder)))


def saved_after_step(step: int) -> Cut:
    """Saved when *step* optimizer steps are complete, as `global_step` counts them."""
    return Cut(
        f"after_step_{step}",
        _checkpoint(every_n_train_steps=step),
        "on_train_batch_end",
        lambda trainer: trainer.global_step > step,
        _kill,
    )


def saved_at_epoch_end(epoch: int) -> Cut:
    """Saved when *epoch* (0, 1, ...) has ended."""
    saver = _checkpoint(every_n_epochs=1, save_on_train_epoch_end=True)
    return Cut(f"end_of_epoch_{epoch}", saver, "on_train_batch_end", at((epoch + 1, 1)), _kill)


def saved_at_validation(before: LoaderPosition) -> Cut:
    """Saved at the end of each validation; the last one before the batch at *before* counts."""
    saver = _checkpoint(save_on_train_epoch_end=False)
    return Cut(f"validation_before_{before}", saver, "on_train_batch_end", at(before), _kill)


def raised_in(hook: str, place: LoaderPosition, saver: Callable[[Path], L.Callback] | None = None) -> Cut:
    """Saved on the way out of an exception in *hook* at *place*."""
    saver = saver or _on_exception
    return Cut(f"raised_in_{hook}_{place}", saver, hook, at(place), _kill)


def raised_with_on_exception_checkpoint(hook: str, place: LoaderPosition) -> Cut:
    """The same, saved by OnExceptionCheckpoint."""
    return raised_in(hook, place, lambda folder: OnExceptionCheckpoint(folder, _FILE))


def interrupted(hook: str, place: LoaderPosition) -> Cut:
    """Ctrl-C in *hook* at *place*; Lightning saves, and ends the process."""
    cut = raised_in(hook, place)
    return replace(cut, name=f"ctrl_c_in_{hook}_{place}", action=_press_ctrl_c, ends_with=SystemExit)


def sigterm(hook: str, place: LoaderPosition) -> Cut:
    """SIGTERM in *hook* at *place*; Lightning ends the batch, raises and saves."""
    cut = raised_in(hook, place)
    return replace(
        cut, name=f"sigterm_in_{hook}_{place}", action=partial(_send, signal.SIGTERM), ends_with=SIGTERMException
    )


def sigkill(place: LoaderPosition, every_n_steps: int) -> Cut:
    """SIGKILL at *place*, in a process of its own that saves every *every_n_steps* optimizer steps."""
    saver = _checkpoint(every_n_train_steps=every_n_steps)
    kill = partial(_send, signal.SIGKILL)
    return Cut(f"sigkill_{place}", saver, "training_step", at(place), kill, ends_with=None, kills_process=True)


def stopped(place: LoaderPosition) -> Cut:
    """`trainer.should_stop` behind the batch at *place* (as `max_time` sets it), and saved when `fit` has returned."""
    return Cut(f"stopped_{place}", None, "on_train_batch_end", at(place), _stop, ends_with=None)


def raised_after(batches: int) -> Cut:
    """An exception in the training_step behind so many batches of the session, wherever in the run that is.

    It counts the session's batches itself, so it ends one session only.
    """
    numbers = count()
    return Cut(f"raised_after_{batches}", _on_exception, "training_step", lambda _: next(numbers) == batches, _kill)


def saved_in(hook: str, place: LoaderPosition) -> Cut:
    """Saved by hand in *hook* at *place*; the session dies one batch later."""

    def saver(folder: Path) -> L.Callback:
        return _InHook(hook, at(place), lambda trainer: trainer.save_checkpoint(checkpoint_in(folder)))

    def later(trainer: L.Trainer) -> bool:
        return (trainer.current_epoch, trainer.fit_loop.batch_idx) > place

    return Cut(f"saved_in_{hook}_{place}", saver, "on_train_batch_end", later, _kill)
