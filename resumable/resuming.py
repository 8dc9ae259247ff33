"""A DataLoader whose passes begin where the training stands, and the count of what it yields."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import TypeVar

from resumable.cursor import Cursor, Pass
from resumable.ledger import Stretch
from resumable.policy import resolve
from resumable.position import Position
from resumable.sampler import Feed, ResumableSampler
from resumable.saved import Place, Saved
from resumable.verdict import Identity, OnMismatch, Verdict

__all__ = ["Iterate", "LoaderFrontier", "Resuming", "install"]

T = TypeVar("T", default=Any)
Iterate = Callable[[], Iterator[T]]
"""Torch's own `DataLoader.__iter__`, bound to its loader."""


class LoaderFrontier:
    """The frontier of a loop: what its loader yielded, or what the loop committed."""

    init_global_step = 0
    knows_epochs = True

    def __init__(self, feed: Feed, stretch: Stretch, *, seed_is_given: bool, on_mismatch: OnMismatch) -> None:
        self.feed = feed
        self.stretch = stretch
        self.cursor = Cursor(feed.batching)
        self._seed_is_given = seed_is_given
        self._on_mismatch: OnMismatch = on_mismatch

    @property
    def position(self) -> Position:
        """The trained frontier."""
        return self.cursor.position

    @property
    def order(self) -> Identity:
        """What the loader's order depends on."""
        return self.feed.identity

    @property
    def commits(self) -> bool:
        """Whether the loop has called `commit()`, in this session or before."""
        return self.cursor.commits

    def places(self) -> tuple[Place, ...]:
        """One loader has one place: the position."""
        return ()

    @property
    def is_running(self) -> bool:
        """Whether a pass is alive."""
        return self.cursor.current.is_running()

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved*, from the next `iter()` on."""
        found = resolve(
            saved,
            self.feed.identity,
            self.stretch,
            seed_is_given=self._seed_is_given,
            on_mismatch=self._on_mismatch,
        )
        self.feed.adopt(found.order)
        self.cursor.seek(found.position, commits=saved.commits or self.commits)
        at = found.position
        self.stretch = replace(self.stretch, sample=at.consumed_samples, epoch=at.epoch, offset=at.offset)
        return found.verdict

    def commit(self) -> None:
        """What was yielded so far is trained."""
        self.cursor.commit()

    def rebase(self) -> None:
        """A loop counts no steps that could be rebased."""

    def note_saved(self) -> None:
        """What the saved position counts as trained stays counted."""
        self.cursor.note_saved()

    def settle(self) -> None:
        """Open the next pass, whose beginning tells a look at the data from training."""
        self.cursor.begin()

    def passes(self, sampler: ResumableSampler, iterate: Iterate[T]) -> Iterator[T]:
        """A pass from the frontier on, counted as it is yielded."""
        this = self.cursor.begin()
        sampler.start = (this.begun_at.epoch, this.begun_at.offset)
        counting = _count(iterate(), this)
        this.is_running = partial(_is_alive, weakref.ref(counting))
        return counting


def _count(batches: Iterator[T], this: Pass) -> Generator[T, None, None]:
    for batch in batches:
        this.taken += 1
        yield batch
    this.ended = True


def _is_alive(iterator: weakref.ref[Generator[Any, None, None]]) -> bool:
    generator = iterator()
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED


class Resuming(DataLoader[T]):
    """A DataLoader whose passes somebody else begins, given torch's own way to iterate."""

    _resumable_pass: Callable[[Iterate[T]], Iterator[T]]

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        return self._resumable_pass(super().__iter__)


def install(loader: Resuming[T], sampler: ResumableSampler | None, passes: Callable[[Iterate[T]], Iterator[T]]) -> None:
    """Let *passes* begin the loader's passes, and *sampler* take the place of its own, unless it streams.

    torch refuses to set these attributes after `__init__`, for fear of a loader that is half old and half new; here
    the one attribute that is iterated is exchanged, between two passes.
    """
    own = vars(loader)
    if sampler is not None:
        own["sampler" if loader.batch_sampler is None else "batch_sampler"] = sampler
    own["_resumable_pass"] = passes
