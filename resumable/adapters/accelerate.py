"""Accelerate: a loader that `accelerator.prepare` leaves as it is, and `save_state` and `load_state` carry.

loader = prepare(accelerator, ResumableLoader(..., ranks=Ranks(accelerator)))

accelerator.prepare(loader)      gives it back: it is marked as prepared
a batch that is yielded          is moved to the device; whether it is the epoch's last follows from the plan
accelerator.accumulate(...)      knows by that where its window ends; the window's batches are then trained
accelerator.save_state(...)      saves where the last such window ended
the first pass after a load      begins there, and begins a window
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakSet

from typing_extensions import override

from resumable.errors import ConfigurationError, warn
from resumable.extras import naming_the_extra
from resumable.loading.counted import Counted
from resumable.loading.cursor import Pass
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.loop_progress import LoopProgress
from resumable.loading.prepared import MovedPass, passes_of, prepared
from resumable.position import Position
from resumable.steps.step_plan import StepPlan

with naming_the_extra():
    import accelerate
    from accelerate.utils import operations

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Ranks", "prepare"]

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel rank and size of *accelerator*'s process: a `resumable.Ranks`.

    Processes that share a model by tensor, context or sequence parallelism share a rank, as in accelerate's own loaders.
    """

    accelerator: Accelerator

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank among those that load different data."""
        return int(self.accelerator.process_index) // (int(self.accelerator.num_processes) // self.data_parallel_size)

    @property
    def data_parallel_size(self) -> int:
        """How many processes, or groups of them, load different data."""
        mesh: Any = getattr(self.accelerator, "torch_device_mesh", None)
        if mesh is None:
            return int(self.accelerator.num_processes)
        size = 1
        for name in mesh.mesh_dim_names or ():
            size *= mesh[name].size() if name.startswith("dp") else 1
        return size


def prepare(accelerator: Accelerator, loader: L, /) -> L:
    """The same *loader*, for a loop of *accelerator*: call it in place of `accelerator.prepare(loader)`, before `load_state`.

    Within `accelerator.accumulate(...)`, a batch is trained once its window is: no `commit()` is needed, and one does no
    harm. In a loop without `accumulate`, what was yielded is trained once a prepared optimizer steps; where none is prepared,
    what was yielded or committed is. With a schedule, the loader sets `accelerator.gradient_accumulation_steps` as each
    optimizer step begins.

    Raises:
        ConfigurationError: if the loader is not resumable, is prepared already, loads another rank's part than *accelerator*
            says, or if `split_batches` would split its batches.
    """
    passes = passes_of("accelerate", loader, Ranks(accelerator))
    if accelerator.split_batches and accelerator.num_processes > 1:
        raise ConfigurationError(
            "With split_batches=True, accelerate would split each batch among the processes.",
            [("batch_size", passes.progress.feed.micro_batch_size), ("processes", accelerator.num_processes)],
            "Give the loader the batch size of one process, and leave split_batches out.",
        )
    if not hasattr(accelerator, "accumulate"):
        raise ConfigurationError(
            "With this release of accelerate, accumulate() cannot be followed.",
            [("accelerate", accelerate.__version__), ("tested", "1.15")],
            'Run: pip install "resumable-training[accelerate]"',
        )
    if _LOADED in vars(accelerator):
        warn(
            "This accelerator has loaded a checkpoint before the loader was prepared, so nothing of it has reached the loader.",
            [("checkpoint", vars(accelerator)[_LOADED]), ("position", passes.tracker.position)],
            "Call prepare(accelerator, loader) before accelerator.load_state(...).",
        )
    windows = _Windows(accelerator, loader, passes)
    _follow(accelerator).add(windows)
    return prepared(
        loader,
        passes,
        "accelerate",
        windows.follow,
        _is_accelerate_prepared=True,
        use_stateful_dataloader=True,
        end_of_dataloader=False,
        remainder=-1,
        set_epoch=_leave_epoch,
        state_dict=windows.state_dict,
    )


def _follow(accelerator: Any) -> WeakSet[_Windows]:
    """Those who hear of each window of *accelerator*, and of each folder that it loads."""
    kept = cast("dict[str, Any]", vars(accelerator))
    followed: WeakSet[_Windows] | None = kept.get(_FOLLOWED)
    if followed is None:
        followed = kept[_FOLLOWED] = WeakSet[_Windows]()
        kept["accumulate"] = partial(_accumulate, accelerator.accumulate, accelerator, followed)
        accelerator.register_load_state_pre_hook(partial(_tell_of_missing, followed))
    return followed


def _note_loads() -> None:
    """Let each accelerator remember which checkpoint it has loaded: nothing in it shows that afterwards."""
    cls = cast("Any", accelerate.Accelerator)
    own = cls.load_state

    @wraps(own)
    def load_state(self: Any, *args: Any, **options: Any) -> Any:
        result = own(self, *args, **options)
        vars(self)[_LOADED] = args[0] if args else options.get("input_dir")
        return result

    cls.load_state = load_state


_FOLLOWED = "_resumable_followed"
_LOADED = "_resumable_loaded"
_note_loads()


@contextmanager
def _accumulate(
    own: Callable[..., AbstractContextManager[None]],
    accelerator: Any,
    followed: WeakSet[_Windows],
    *models: Any,
    **options: Any,
) -> Generator[None, None, None]:
    """`accelerator.accumulate`, and what follows for the loaders: a window whose last batch fails is not trained."""
    with own(*models, **options):
        for windows in list(followed):
            windows.accumulates = True
            windows.note(is_trained=False)
        yield
    for windows in list(followed) if accelerator.sync_gradients else ():
        if windows.is_open:
            windows.note(is_trained=True)


def _step(own: Callable[..., Any], accelerator: Any, followed: WeakSet[_Windows], *args: Any, **options: Any) -> Any:
    """What the loop calls to step a prepared optimizer, and what follows for the loaders."""
    result = own(*args, **options)
    for windows in list(followed) if accelerator.sync_gradients else ():
        windows.note(is_trained=True)
    return result


def _tell_of_missing(followed: WeakSet[_Windows], models: Any, folder: Any) -> None:
    """Warn where a folder that is loaded now has no position for a loader: accelerate leaves it where it is."""
    for windows in list(followed):
        windows.check_folder(folder)


def _leave_epoch(epoch: int, /) -> None:
    """Called by loops as of accelerate's own loaders; the position knows the epoch."""


class _Windows:
    """Which batches of *loader* the loop of *accelerator* has trained, and what it asks of a loader meanwhile."""

    def __init__(self, accelerator: Any, loader: Any, passes: LoopPasses) -> None:
        self._accelerator = accelerator
        self._loader = loader
        self._passes = passes
        self._begun: Pass | None = None
        self._batches = 0
        self.is_open = False
        self._stands: Position | None = None
        self._guess: Pass | None = None
        self._is_guessed = False
        self._is_told = False
        self.accumulates = False
        self._list_loader()

    def _list_loader(self) -> None:
        loaders: list[Any] = self._accelerator._dataloaders
        if not any(each is self._loader for each in loaders):  # free_memory empties the list
            loaders.append(self._loader)

    @property
    def _progress(self) -> LoopProgress:
        return self._passes.progress

    def follow(self, batches: Counted[Any]) -> Iterator[Any]:
        """A pass of the loader, as accelerate's own loader would yield its batches."""
        accelerator = self._accelerator
        is_moved = accelerator.device_placement
        send = cast("Any", operations).send_to_device
        move = partial(send, device=accelerator.device, non_blocking=accelerator.non_blocking)
        return _AcceleratePass(batches, move if is_moved else _as_it_is, self)

    def yielded(self, this: Pass) -> None:
        """A batch of *this* is yielded next."""
        if not this.counts:
            return
        accelerator, state = self._accelerator, self._accelerator.gradient_state
        self._forget_guess(this)  # a further batch, and nothing has stepped: nothing here shows when this loop does
        if this is not self._begun:
            self._begin(this)
        self._loader.end_of_dataloader = this.taken >= self._batches
        if this.step is not None and this.of_step == 1:
            accelerator.gradient_accumulation_steps = this.step[0].batches
            accelerator.step = 0
        self._leave()
        state._add_dataloader(self._loader)

    def _leave(self) -> None:
        state = self._accelerator.gradient_state
        if any(each is self._loader for each in state.dataloader_references):  # older releases raise without it
            state._remove_dataloader(self._loader)

    def _begin(self, this: Pass) -> None:
        accelerator, progress, at = self._accelerator, self._progress, this.begun_at
        plan, rounds = progress.plan, progress.feed.plan
        self._begun = this
        self._list_loader()
        self._batches = plan.batches_left(at) if isinstance(plan, StepPlan) else plan.batches_left(at.offset, at.epoch)
        last = rounds.length - at.offset - (self._batches - 1) * rounds.batch_size
        self._loader.remainder = 0 if rounds.drop_last or last >= rounds.batch_size else last
        active = accelerator.gradient_state.active_dataloader
        goes_on = progress.in_window is not None and at == self._stands
        if not goes_on and (active is None or active is self._loader):
            accelerator.step = 0  # load_state has set it to that of a window that is begun anew
            if self.is_open:
                for optimizer in accelerator._optimizers:
                    optimizer.optimizer.zero_grad()
            self.is_open = False
        followed = _follow(accelerator)
        for optimizer in accelerator._optimizers:
            if _FOLLOWED not in vars(optimizer):
                vars(optimizer).update({_FOLLOWED: True, "step": partial(_step, optimizer.step, accelerator, followed)})
        if not progress.commits and (accelerator.gradient_accumulation_steps > 1 or accelerator._optimizers):
            progress.note_window(is_trained=False)  # until an optimizer steps, or another batch is asked for
            progress.in_window, self._guess = None, this

    def _forget_guess(self, this: Pass) -> None:
        if self._guess is this and not self._progress.is_committed_by_loop:
            self._progress.forget_windows()
            self._is_guessed = True
        self._guess = None

    def state_dict(self) -> dict[str, Any]:
        """The loader's state, with a warning where the loop accumulates by itself and has not stepped yet."""
        if self._is_guessed and not self._progress.is_committed_by_loop:
            self._is_guessed = False
            warn(
                "A state is saved, and no prepared optimizer has stepped since the loop began. All batches that it was given "
                "count as trained; if it accumulates, their gradients are not in the checkpoint.",
                [("position", self._passes.tracker.position)],
                "Train within accelerator.accumulate(model), or call loader.commit() before the loop and after each step.",
            )
        return cast("dict[str, Any]", type(self._loader).state_dict(self._loader))

    def note(self, *, is_trained: bool) -> None:
        """The loop is in a window, which ends with the present batch if that *is_trained*."""
        progress = self._progress
        if progress is not self._passes.tracker.progress or not progress.is_in_pass:
            return
        self._guess, self._is_guessed = None, False
        progress.note_window(is_trained=is_trained)
        self.is_open, self._stands = not is_trained, progress.read_position

    def end(self, this: Pass) -> None:
        """*this* has no further batch."""
        if this is not self._begun:
            return
        self._leave()
        self._forget_guess(this)
        progress = self._progress
        if progress.in_window is not None and not (self.accumulates or progress.is_committed_by_loop):
            if self._stands != progress.read_position and not self._is_told:
                self._is_told = True
                warn(
                    "An epoch has ended while the loop accumulates by itself. Its last batches count as trained; where the loop "
                    "carries their gradients into the next epoch, a checkpoint that is saved in between lacks them.",
                    [("batches of the epoch", this.taken)],
                    "Train within accelerator.accumulate(model), which steps at an epoch's end.",
                )
            progress.note_window(is_trained=True)
        if this.taken and not self._loader.end_of_dataloader:
            warn(
                "An epoch has ended before its last batch, and accelerate's window with it was not closed: the gradients of "
                "its batches join the next epoch's.",
                [("batches by the plan", self._batches), ("batches that came", this.taken)],
                "Let the loader yield every batch, and handle a sample that cannot be loaded in the dataset.",
            )

    def release(self, this: Pass) -> None:
        """Nobody iterates *this* any more."""
        state = self._accelerator.gradient_state
        if this is self._begun and not this.ended and state.initialized:
            self._leave()

    def check_folder(self, folder: Any) -> None:
        """Warn if *folder* has no position of the loader."""
        for number, each in enumerate(self._accelerator._dataloaders):
            name = "dl_state_dict.bin" if number == 0 else f"dl_state_dict_{number}.bin"
            if each is self._loader and not os.path.exists(os.path.join(folder, name)):
                warn(
                    "The checkpoint has no position for a loader: the loader stays where it is.",
                    [("file", os.path.join(folder, name)), ("position", self._passes.tracker.position)],
                    "Prepare the same loaders in the same order in each session, before load_state.",
                )


class _AcceleratePass(MovedPass[Any]):
    """A pass that an accelerator knows of."""

    def __init__(self, batches: Counted[Any], moved: Callable[[Any], Any], windows: _Windows) -> None:
        super().__init__(batches, moved)
        self._windows = windows

    @override
    def __next__(self) -> Any:
        try:
            batch = next(self.batches)
        except StopIteration:
            self._windows.end(self.batches.this)
            raise
        self._windows.yielded(self.batches.this)
        return self.moved(batch)

    def __del__(self) -> None:
        self._windows.release(self.batches.this)


def _as_it_is(batch: Any) -> Any:
    return batch
