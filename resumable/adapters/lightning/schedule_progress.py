"""Optimizer steps of a schedule's sizes under Lightning, which by itself accumulates equally many batches for each.

    batches of the epoch   1   2   3   4   5   6   7   8   9
    windows                └───┘   └───┘   └───────┘   └───┘      batches - begins counts within a window
    begins                 0       2       4           7

Lightning steps after a batch whose number divides by `trainer.accumulate_grad_batches`, and divides each loss by it. Here
that is a number of the present window, which counts the batches from the window's beginning on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.progress import LightningProgress
from resumable.adapters.lightning.several_loaders import LoaderGroup
from resumable.errors import DecorationError
from resumable.loading.map_loader import MapLoader, TrainLoader
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule
from resumable.saved.snapshot import LoaderPosition
from resumable.steps.step_plan import Step, StepPlan

__all__ = ["LightningScheduleProgress", "Window"]


class Window(int):
    """How many batches a step accumulates; the remainder of a batch's number by it is that within the window.

    >>> window = Window(3, begins=4)
    >>> [number % window for number in (5, 6, 7)], 6 / window
    ([1, 2, 0], 2.0)
    """

    begins: int

    def __new__(cls, batches: int, *, begins: int) -> Window:
        """A window of *batches* batches after *begins* others of the epoch."""
        window = super().__new__(cls, batches)
        window.begins = begins
        return window

    def __rmod__(self, number: int) -> int:
        return (number - self.begins) % int(self)


class _EveryBatch(BatchCount):
    """All trained batches: the schedule says which of them make whole steps."""

    @property
    @override
    def accumulation(self) -> int:
        return 1


class LightningScheduleProgress(LightningProgress):
    """The progress of one train loader whose batches are accumulated as *schedule* says."""

    @property
    @override
    def epochs_vary(self) -> bool:
        return True

    def __init__(self, trainer: Any, schedule: LedgerSchedule, policy: Policy) -> None:
        super().__init__(trainer, policy)
        self.schedule = schedule
        self._count = _EveryBatch(trainer)
        self._steps: Iterator[Step] = iter(())
        self._window: Window | None = None

    @property
    def plan(self) -> StepPlan:
        """The batches of the present configuration, grouped into steps."""
        return cast("StepPlan", self._stretch_of(self.primary).plan)  # which it is where there is a schedule

    # -- what differs from equal windows

    @override
    def _stretch_of(self, loader: TrainLoader) -> Stretch:
        return replace(super()._stretch_of(loader), schedule=self.schedule)

    @override
    def _advance(self, done: int) -> Position:
        return self.plan.advance(self.anchor, done)

    @override
    def _places(self, done: int, ended: bool) -> tuple[LoaderPosition, ...]:
        at = self._position(done, ended)
        return (LoaderPosition(at.epoch, at.offset, self.primary.feed.identity),)

    @override
    def _check(self, position: Position) -> None:
        self.plan.check_from(position)

    @override
    def with_loaders(self, loaders: list[TrainLoader], mode: str) -> LoaderGroup:
        """Take *loaders*, which must be one over a map-style dataset."""
        _check_grouping(self.trainer, loaders, self.schedule)
        before = super().with_loaders(loaders, mode)
        vars(loaders[0].loader)["_resumable_schedule"] = self
        return before

    @override
    def batches_from_here(self) -> int | None:
        return self.plan.batches_left(self.position)

    # -- what the loader shows of itself

    @property
    def num_microbatches(self) -> int:
        """Batches of the optimizer step that is being trained, or of the next one."""
        return self.plan.step_batches(self.position) if self._window is None else int(self._window)

    @property
    def batches_in_epoch(self) -> int:
        """Batches of the whole present epoch, before Lightning's own limit."""
        at, plan = self.position, self.plan
        unlimited = replace(plan, rounds=replace(plan.rounds, limit=None))
        return self._trained(at) + unlimited.batches_left(at)

    def _trained(self, at: Position) -> int:
        return at.offset // self.plan.rounds.batch_size

    # -- the epoch, as a placement asks for it

    @override
    def trained_batches(self, loops: dict[str, Any], /) -> int:
        return self._trained(self.anchor)

    @override
    def epoch_batches(self, loops: dict[str, Any] | None, /) -> int:
        """Batches of the epoch that begins at the position; of the one that has ended, if *loops* is what was saved."""
        if loops is not None:
            return int(loops["epoch_loop.batch_progress"]["current"]["processed"])
        return self.plan.batches_left(self.anchor)

    @override
    def first_epoch_batches(self, trained: int, /) -> int | None:
        return trained + self.plan.batches_left(self.anchor)

    # -- what the trainer's callbacks are told

    @override
    def epoch_starts(self) -> None:
        super().epoch_starts()
        self._window = None

    @property
    @override
    def hears_batch_start(self) -> bool:
        return True

    @override
    def batch_starts(self) -> None:
        """Open a step's window with its first batch."""
        super().batch_starts()
        trained = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        if self._window is None:
            self._steps = self.plan.steps(self.anchor)
        if self._window is None or trained >= self._window.begins + self._window:
            self._window = Window(next(self._steps).batches, begins=trained)
            self.trainer.accumulate_grad_batches = self._window

    @override
    def epoch_ends(self) -> None:
        super().epoch_ends()
        self._window = None

    @override
    def train_ends(self) -> None:
        """Leave the trainer as it was found."""
        super().train_ends()
        self._window = None
        self.trainer.accumulate_grad_batches = 1


def _check_grouping(trainer: Any, loaders: list[TrainLoader], schedule: object) -> None:
    """Refuse what would group the batches in another way."""
    if len(loaders) > 1 or not isinstance(loaders[0], MapLoader):
        raise DecorationError(
            "A schedule groups the batches of one loader over a map-style dataset.",
            [("schedule", schedule), ("train loaders", [type(each.loader).__name__ for each in loaders])],
            "Return one DataLoader, or leave the schedule out.",
        )
    accumulates = trainer.accumulate_grad_batches
    changes = [type(each).__name__ for each in trainer.callbacks if hasattr(each, "get_accumulate_grad_batches")]
    strategy = trainer.strategy
    if (accumulates != 1 and not isinstance(accumulates, Window)) or changes or strategy.handles_gradient_accumulation:
        raise DecorationError(
            "A schedule sets how many batches each optimizer step accumulates.",
            [
                ("schedule", schedule),
                ("accumulate_grad_batches", accumulates),
                ("callbacks that change it", changes),
                ("strategy", type(strategy).__name__),
            ],
            "Leave accumulate_grad_batches and its scheduler out, and use a strategy that leaves the accumulation to "
            "Lightning.",
        )
