"""Hugging Face's Trainer: a loader that its `checkpoint-N` carries, and that the Trainer does not skip into a second time.

    class MyTrainer(Trainer):
        def get_train_dataloader(self):
            return prepare(self, ResumableLoader(..., ranks=Ranks(self)))

    train()                 the loader's position is read from trainer_state.json, before the first pass
    each epoch              as many batches and steps as the plan has left from there on
    an optimizer step       its batches are trained: no `commit()` is needed
    checkpoint-N            trainer_state.json holds the position, under `stateful_callbacks`

Source: `Trainer._inner_training_loop` of transformers 4.57 to 5.24 (transformers/trainer.py).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

from transformers import Trainer, TrainerCallback, TrainerState

from resumable.errors import ConfigurationError, warn
from resumable.loading.counted import Counted
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.prepared import passes_of, prepared
from resumable.position import Position

__all__ = ["Ranks", "prepare"]

L = TypeVar("L")

_MODULE: Final[Any] = import_module("transformers.trainer")
_KEY: Final = "resumable"
_FOLLOWED: Final = "_resumable_run"
_CALLS: Final = ("set_initial_training_values", "_save_checkpoint", "_load_rng_state")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel rank and size of *trainer*'s process: a `resumable.Ranks`.

    Processes that share a model by tensor, context or sequence parallelism share a rank.
    """

    trainer: Trainer

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank among those that load different data."""
        arguments: Any = self.trainer.args
        return int(arguments.process_index) // (int(arguments.world_size) // self.data_parallel_size)

    @property
    def data_parallel_size(self) -> int:
        """How many processes, or groups of them, load different data."""
        mesh: Any = getattr(self.trainer.accelerator, "torch_device_mesh", None)
        if mesh is None:
            arguments: Any = self.trainer.args
            return int(arguments.world_size)
        size: int = 1
        for name in mesh.mesh_dim_names or ():
            size *= mesh[name].size() if name.startswith("dp") else 1
        return size


def prepare(trainer: Trainer, loader: L, /) -> L:
    """The same *loader*, to be returned from the `get_train_dataloader` of *trainer*.

    Its position is saved in each `checkpoint-N`, and `train(resume_from_checkpoint=...)` goes on there, whatever
    `ignore_data_skip` says. A batch is trained once its optimizer step is. A checkpoint may be resumed with another batch
    size, accumulation or number of processes: an epoch then has the steps that are left of it, and `max_steps` follows where
    it comes from `num_train_epochs`.

    Raises:
        ConfigurationError: if the loader is not resumable, is prepared for another trainer, loads another rank's part than
            *trainer* says, or has a schedule or drop_last="carry"; or if transformers has no calls to follow.
    """
    if not hasattr(trainer, "callback_handler"):
        raise ConfigurationError(
            "prepare() takes the Trainer first, and then the loader.", [("got", type(trainer).__name__)]
        )
    run: _Run | None = vars(trainer).get(_FOLLOWED)
    passes: object = getattr(loader, "_resumable_pass", None)
    if run is not None and isinstance(passes, LoopPasses) and passes.follow == run.follow:
        run.latest = loader, passes  # get_train_dataloader keeps its loader
        return loader
    checked = passes_of("transformers", loader, Ranks(trainer))
    _check_steps(checked)
    if run is None:
        run = _Run(trainer)
    run.latest = loader, checked
    _LEFT_ALONE.add(checked)
    marks = {
        "_is_accelerate_prepared": True,
        "_resumable_schedule": _Length(run, checked),
        "set_epoch": run.begin_epoch,
    }
    return prepared(loader, checked, "transformers", run.follow, **marks)


def _check_steps(passes: LoopPasses) -> None:
    stretch = passes.progress.stretch
    if stretch.schedule is not None or stretch.drop_last == "carry":
        raise ConfigurationError(
            "The Trainer takes equally many batches for each optimizer step, and equally many steps for each epoch.",
            [("schedule", stretch.schedule), ("drop_last", stretch.drop_last)],
            "Leave out schedule= and drop_last='carry', and set gradient_accumulation_steps in TrainingArguments.",
        )


class _Length:
    """How many batches the Trainer counts in an epoch: in one that is resumed in another batch size, what is left decides."""

    num_microbatches = 1

    def __init__(self, run: _Run, passes: LoopPasses) -> None:
        self._run = run
        self._passes = passes

    @property
    def batches_in_epoch(self) -> int:
        """Batches of the present epoch, those that are left out included."""
        progress = self._passes.progress
        return self._run.batches or progress.feed.plan.batches_left(0, progress.next_start.epoch)


class _StepsPerEpoch(int):
    """The steps of an epoch. The Trainer divides its steps by it, to find where it begins: that is *begins*, whatever they are."""

    begins: tuple[int, int]
    """The epoch, and the steps that are left out of it."""

    def __rfloordiv__(self, steps: int, /) -> int:
        return self.begins[0]

    def __rmod__(self, steps: int, /) -> int:
        return self.begins[1]


class _Steps(TrainerCallback):
    """Hears of each optimizer step, and of the end of each epoch."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._run.note_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.end_epoch(control)


class _Run:
    """What *trainer* calls around its loader, and where the loader is meanwhile."""

    def __init__(self, trainer: Any) -> None:
        missing = [name for name in _CALLS if not hasattr(trainer, name)]
        is_old = tuple(map(int, version("transformers").split(".")[:2])) < (
            4,
            52,
        )  # it leaves the last window out of its steps
        if missing or is_old or not hasattr(_MODULE, "skip_first_batches"):
            raise _unknown_version(missing)
        self.latest: tuple[Any, LoopPasses] | None = None
        self.batches = 0
        self._trainer = trainer
        self._passes: LoopPasses | None = None
        self._configuration: list[int] = []
        self._begins_at: Position | None = None
        self._skips: bool | None = None
        self._is_in_pass = False
        trainer.callback_handler.callbacks.insert(0, _Steps(self))  # before any that looks at the loader
        own = cast("dict[str, Any]", vars(trainer))
        calls: dict[str, Callable[..., Any]] = dict(zip(_CALLS, (self._begin, self._save, self._draws), strict=True))
        if hasattr(trainer, "_run_epoch"):  # before transformers 5.3, each epoch asks the loader for its length
            calls["_run_epoch"] = self._epoch
        own.update({name: partial(call, getattr(trainer, name)) for name, call in calls.items()})
        own[_FOLLOWED] = self

    def follow(self, batches: Counted[Any]) -> Iterator[Any]:
        """A pass of the loader: the Trainer moves each batch to its device, and reads no further than its next step."""
        self._give_back_option()
        self._is_in_pass = True
        return batches

    def note_step(self) -> None:
        """The batches that were yielded are trained."""
        if self._passes is not None:
            self._passes.progress.commit()

    def end_epoch(self, control: Any) -> None:
        """The Trainer's epoch is over: what a callback has stopped it before is left out, unless the training stops there."""
        if self._passes is None:
            return
        progress = self._passes.progress
        at = progress.next_start
        if at.offset and (control.should_epoch_stop or not control.should_training_stop):
            at = Position(at.consumed_samples, at.epoch + 1, 0)
        progress.seek(at, commits=True)  # the epoch's iterator may still be alive

    def begin_epoch(self, epoch: int, /) -> None:
        """Called as of any loader with a sampler that shuffles; the position knows the epoch."""
        if self._passes is None:
            return
        progress, begins = self._passes.progress, self._begins_at
        at = progress.next_start
        if begins not in (None, at):
            raise ConfigurationError(
                "The loader was moved after the Trainer had placed it, and the Trainer's steps would not fit.",
                [("position in the checkpoint", begins), ("position now", at)],
                "Let the checkpoint alone carry the position: load no state into a loader that is prepared.",
            )
        self._begins_at = None
        self.batches = self._done(at) + progress.feed.plan.batches_left(at.offset, at.epoch)

    def _done(self, at: Position) -> int:
        """Batches that are left out of the epoch, in whole windows."""
        accumulation: int = self._trainer.args.gradient_accumulation_steps
        return self._passes.progress.batches_before(at) // accumulation * accumulation if self._passes else 0

    def _begin(self, own: Callable[..., tuple[Any, ...]], args: Any, loader: Any, *others: Any) -> tuple[Any, ...]:
        """Load the position; the epochs, steps and first steps of the run that begins there."""
        self._passes, self.batches = None, 0
        epochs, steps_per_epoch, *values, max_steps = own(args, loader, *others)
        if self.latest is None or loader is not self.latest[0]:
            raise ConfigurationError(
                "The Trainer trains with another loader than the one that was prepared for it last.",
                [("trains with", type(loader).__name__)],
                "Return from get_train_dataloader what prepare(self, loader) returns.",
            )
        self._passes = passes = self.latest[1]
        progress, accumulation = passes.progress, args.gradient_accumulation_steps
        state = _checkpoint_state()
        kept = state.stateful_callbacks.get(_KEY)
        self._place(passes, kept, state.global_step, steps_per_epoch)
        progress.seek(progress.next_start, commits=True)
        progress.must_tell = self._is_in_pass = False
        at = self._begins_at = progress.next_start
        self._configuration = [steps_per_epoch, accumulation * progress.feed.plan.batch_size]
        if kept is not None and kept["configuration"] != self._configuration:
            left = -(-progress.feed.plan.batches_left(at.offset, at.epoch) // accumulation)
            if args.max_steps <= 0:
                max_steps = state.global_step + max(0, max_steps - (at.epoch + 1) * steps_per_epoch + left)
            epochs = at.epoch + 1 + max(0, -(-(max_steps - state.global_step - left) // steps_per_epoch))
        is_over, done = state.global_step >= max_steps, self._done(at)
        if done and not is_over:
            if self._skips is None:
                self._skips = args.ignore_data_skip
            args.ignore_data_skip = False  # the Trainer counts on from there
        begins = _StepsPerEpoch(steps_per_epoch)
        begins.begins = at.epoch, done // accumulation
        return (at.epoch if is_over else epochs), begins, *values, max_steps

    def _place(self, passes: LoopPasses, kept: Any, steps: int, steps_per_epoch: int) -> None:
        """Go to the position that is *kept* in a checkpoint, or to where that many *steps* lead without one."""
        tracker, plan = passes.tracker, passes.progress.feed.plan
        if kept is not None:
            tracker.load(kept["loader"])
        elif steps:
            batches = steps % steps_per_epoch * self._trainer.args.gradient_accumulation_steps
            tracker.load({"consumed_samples": plan.position_in(steps // steps_per_epoch, batches).consumed_samples})
            warn(
                "The checkpoint has no position for the loader: it goes on after as many batches as the Trainer's steps have "
                "taken, in its own order, which may not be the order that was trained.",
                [("global_step", steps), ("position", tracker.position)],
            )
        elif tracker.position != Position():
            if passes.progress.next_start != Position():  # it was no look at the data
                warn(
                    "The Trainer begins a new run, and the loader with it: it goes back to the start of its order.",
                    [("position before", tracker.position)],
                    "To go on with a run, call train(resume_from_checkpoint=True).",
                )
            tracker.load({"consumed_samples": 0})

    def _epoch(self, own: Callable[..., None], **options: Any) -> None:
        """An epoch of the Trainer, in which the loader yields what is left of its own."""
        self.begin_epoch(options["epoch"])
        steps = -(-self.batches // self._trainer.args.gradient_accumulation_steps)
        own(**{**options, "steps_in_epoch": self.batches, "num_update_steps_per_epoch": steps})

    def _give_back_option(self) -> None:
        if self._skips is not None:
            self._trainer.args.ignore_data_skip, self._skips = self._skips, None

    def _save(self, own: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Save with the position, as all ranks agree on it."""
        if self._passes is not None:
            if self._trainer.control.should_epoch_stop:
                self.end_epoch(self._trainer.control)
            loader = {
                **self._passes.tracker.agreed_state_dict(),
                "commits": False,
            }  # in a plain loop, what is yielded counts
            self._trainer.state.stateful_callbacks[_KEY] = {"loader": loader, "configuration": self._configuration}
        return own(*args, **options)

    def _draws(self, own: Callable[..., None], *args: Any, **options: Any) -> None:
        """Take up the random numbers of the checkpoint, unless they follow from the batches that have come."""
        reseeds = self._passes is not None and self._passes.progress.stretch.reseed is not None
        if not (reseeds and self._is_in_pass):
            own(*args, **options)


def _checkpoint_state() -> Any:
    """The state in the checkpoint that the Trainer's loop, which calls, resumes; a new one where it begins."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "_inner_training_loop":
        frame = frame.f_back
    if frame is None or "resume_from_checkpoint" not in frame.f_locals:
        raise _unknown_version(["_inner_training_loop"])
    path = os.path.join(frame.f_locals["resume_from_checkpoint"] or "", "trainer_state.json")
    is_there = frame.f_locals["resume_from_checkpoint"] is not None and os.path.isfile(path)
    return TrainerState.load_from_json(path) if is_there else TrainerState()


def _unknown_version(missing: list[str]) -> ConfigurationError:
    return ConfigurationError(
        "This version of transformers has no calls by which its Trainer can be followed.",
        [("installed", version("transformers")), ("missing", missing)],
        "Install transformers 4.57.6, or a later one that this package was tested with.",
    )


def _skip_first_batches(own: Callable[..., Any], dataloader: Any, num_batches: int = 0) -> Any:
    """A prepared loader as it is: it begins at its position."""
    passes: object = getattr(dataloader, "_resumable_pass", None)
    is_prepared = isinstance(passes, LoopPasses) and passes in _LEFT_ALONE
    return dataloader if is_prepared else own(dataloader, num_batches)


_LEFT_ALONE: Final[WeakSet[LoopPasses]] = WeakSet()

if hasattr(_MODULE, "skip_first_batches"):
    _MODULE.skip_first_batches = partial(_skip_first_batches, _MODULE.skip_first_batches)
