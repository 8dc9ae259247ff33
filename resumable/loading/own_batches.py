"""Loader classes with an `__iter__` of their own: what they yield, compared with what torch gave them.

    torch's iterator ──► given ──► the class's own __iter__ ──► yielded ──► a loop or a trainer, which counts

One batch for one batch, changed or not, and read ahead or not, is a place in the sampler. In a loop, so is a batch for
which others were left out. What is split, repeated, kept from an earlier pass or made of several has no such place.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any, Final

from torch.utils.data.dataloader import _BaseDataLoaderIter  # pyright: ignore[reportPrivateUsage]
from typing_extensions import Self

from resumable.errors import warn
from resumable.feeds.feed import ResumableSampler
from resumable.loading.reseeding import GIVEN, passed, reseed
from resumable.position import Position
from resumable.stopping.workers import mix_in

__all__ = ["OwnBatches", "has_own_batches", "note_given"]

_GIVEN: Final = "_resumable_given"
_FAILED: Final = object()
_TOLD: Final = "_resumable_is_told"
_TOLD_OF_THREAD: Final = "_resumable_is_told_of_thread"
_HOOKS: Final = frozenset({"__iter__", "_get_iterator"})


def has_own_batches(cls: type[Any], /) -> bool:
    """Whether the loader class *cls* may yield other batches than torch's own `__iter__`.

    >>> from torch.utils.data import DataLoader
    >>> has_own_batches(DataLoader)
    False
    """
    packages = {"torch", "torchdata", "resumable", "builtins"}
    bases: tuple[type[Any], ...] = cls.__mro__
    return any(_HOOKS & vars(base).keys() for base in bases if base.__module__.partition(".")[0] not in packages)


class _Given:
    """What torch's iterators have given in one pass, and its class has not yielded yet."""

    def __init__(self) -> None:
        self.batches: deque[Any] = deque()
        self.is_over = False
        self.is_read = False
        self.has_begun = False
        self.reader: Callable[[], OwnBatches | None] = _nobody

    def forget_failed(self) -> int:
        """Of what torch gave, leave out the batches that failed before the next one; how many they are."""
        failed = 0
        while self.batches and self.batches[0] is _FAILED:
            self.batches.popleft()
            failed += 1
        return failed

    def __reduce__(self) -> tuple[Any, ...]:
        return _Given, ()  # a copy of the loader is not in the middle of a pass


class OwnBatches(Iterator[Any]):
    """One pass of a loader whose class has an `__iter__` of its own, begun by *iterate*.

    *passed* is how many of its sampler's batches the last one that it yielded has used up; *may_leave_out* says that the
    count follows that number, so that a batch may be left out.

    A stream has no *sampler*. What its class makes of its batches is read again in the same way, or compared by a digest;
    here only passes are told of that read nothing of it.
    """

    def __init__(self, loader: Any, sampler: ResumableSampler | None, iterate: Callable[[], Iterator[Any]]) -> None:
        self.passed: int = 0
        self.may_leave_out: bool = False
        self._thread = get_ident()
        self._loader = weakref.ref(loader)
        self._sampler = sampler
        self._is_counted = sampler is None or not sampler.evaluates
        self._start = {} if sampler is None else sampler.begun
        self._left = None if sampler is None else sampler.left
        self._total = self._ahead = 0
        self._given = _Given()
        self._given.reader = weakref.ref(self)
        if sampler is not None:
            sampler.passes.add(self)
        vars(loader)[_GIVEN] = self._given
        self._batches = iterate()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        loader, self._thread = self._loader(), get_ident()
        if not self._given.has_begun and loader is not None:
            # only now a generator asks torch for its batches, and other passes may have begun since `iter()`
            vars(loader)[_GIVEN], self._given.has_begun = self._given, True
            if self._sampler is not None:
                self._sampler.begin(**self._start)
        try:
            batch = next(self._batches)
        except StopIteration:
            self._end()
            raise
        except BaseException:
            self._given.forget_failed()  # whoever counts the pass sees the error, and counts it by itself
            raise
        self._compare(batch)
        return batch

    def note(self, batch: Any, number: int) -> None:
        """*batch* was given, the *number*-th of the sampler's: what the class then draws follows from its place."""
        self._given.batches.append(batch)
        sampler = self._sampler
        if sampler is None or sampler.reseed is None:
            return
        if get_ident() != self._thread:
            self._tell_of_thread()
            return
        feed, (epoch, offset) = self._start["feed"], self._start["start"]
        at = feed.plan.advance(Position(0, epoch, 0 if self._start["evaluates"] else offset), number)
        reseed(GIVEN, sampler.reseed, at.epoch, feed.place(at.epoch, at.offset))

    @property
    def is_over(self) -> bool:
        """Whether all batches of the sampler are used up."""
        return self._given.is_over or self._total == self._left

    def _compare(self, batch: Any) -> None:
        failed = self._given.forget_failed()  # the class has gone on after their errors
        given = list(self._given.batches)  # a thread may be adding to it
        at = next((number for number, each in enumerate(given, start=1) if each is batch), None)
        if at is None:  # it was changed: the first of them, if as many are read ahead as before the first batch
            self._ahead = self._ahead or len(given)
            at = min(len(given), 1) if len(given) <= self._ahead else len(given)
            is_known = len(given) < 2
        else:
            is_known = at == 1
        for _ in range(at):
            self._given.batches.popleft()
        self.passed, self._given.is_read = at + failed, True
        self._total += self.passed
        if self._sampler is None:
            if not self._total:
                self._tell("It yields batches that it has not read in this pass")
        elif not at or (self._left is not None and self._total > self._left):
            self._tell("It yields more batches than its sampler has")
        elif not is_known or (failed and not self.may_leave_out):
            self._tell("It leaves batches out, merges them or changes their order; or it reads ahead and changes them")

    def _end(self) -> None:
        """The class has ended its pass: what torch gave and it has not yielded is left out."""
        self.passed = len(self._given.batches)
        self._given.batches.clear()
        self._total += self.passed
        # a count follows either of them, but not both: the next pass begins elsewhere than the class has ended
        leaves = (self.passed > 0, not self.is_over)
        if self._sampler is not None and (all(leaves) if self.may_leave_out else any(leaves)):
            self._tell("It ends its pass before its sampler's end")

    def _tell_of_thread(self) -> None:
        loader = self._loader()
        if loader is None or loader.num_workers or getattr(loader, _TOLD_OF_THREAD, False):
            return  # workers have generators of their own
        vars(loader)[_TOLD_OF_THREAD] = True
        warn(
            f"{type(loader).__qualname__} reads ahead in a thread, whose samples move the generators that the training draws from at the "
            "same time: a resumed run will draw other random numbers.",
            [("class", f"{type(loader).__module__}.{type(loader).__qualname__}"), ("num_workers", 0)],
            "Take the samples in workers: num_workers=1 or more.",
        )

    def _tell(self, what: str) -> None:
        loader = self._loader()
        if loader is not None and self._is_counted:
            _tell(loader, what)


def note_given(loader: Any, iterator: Any, sampler: ResumableSampler | None) -> None:
    """Note what torch's *iterator*, which the class of *loader* has asked for, gives in the present pass of *sampler*."""
    if not isinstance(iterator, _BaseDataLoaderIter):  # an iterator around torch's
        parts: list[Any] = list(getattr(iterator, "__dict__", {}).values())
        iterator = next((part for part in parts if isinstance(part, _BaseDataLoaderIter)), None)
    if iterator is None:
        return
    own: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if sampler is not None and not sampler.evaluates and vars(iterator).get("_index_sampler", own) is not own:
        _tell(loader, "Its _index_sampler gives torch other indices")
    if getattr(loader, _GIVEN, None) is not None:
        mix_in(_Noting, iterator).note_in(loader)


class _Noting:
    """Mixed into torch's iterator: what it gives is noted in the pass that it was asked for in."""

    _resumable_given: _Given
    _resumable_loader: Callable[[], Any]
    _resumable_asked = 0

    def note_in(self, loader: Any) -> None:
        """Belong to the present pass of *loader*."""
        self._resumable_given, self._resumable_asked = getattr(loader, _GIVEN), 0
        if not self._resumable_given.is_read:  # an iterator before this one was a look at the data
            self._resumable_given.batches.clear()
        self._resumable_loader = weakref.ref(loader)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self.note_in(loader)
        super()._reset(loader, first_iter)  # type: ignore[misc]  # torch's, with persistent workers

    def __next__(self) -> Any:
        given = self._resumable_given
        if given.reader() is None and not given.has_begun:
            loader = self._resumable_loader()
            if loader is not None:
                _tell(loader, "Its batches are taken from it past the iterator that `iter()` of it returns")
        iterator: Any = super()
        reader, before = given.reader(), self._resumable_passed
        self._resumable_asked += 1
        try:
            batch: Any = iterator.__next__()
        except StopIteration:
            given.is_over = True
            raise
        except BaseException:
            if reader is not None:
                given.batches.extend([_FAILED] * (self._resumable_passed - before))
            raise
        if reader is not None:
            reader.note(batch, self._resumable_passed - 1)
        return batch

    @property
    def _resumable_passed(self) -> int:
        """Batches that it has given, or tried to."""
        return passed(self, self._resumable_asked)


def _nobody() -> None:
    return None


def _tell(loader: Any, what: str) -> None:
    """Warn of *loader*, once."""
    if getattr(loader, _TOLD, False):
        return
    vars(loader)[_TOLD] = True
    warn(
        f"{type(loader).__qualname__} yields other batches than its sampler or its stream, so a position is not exact: a resumed run may "
        "repeat or leave out samples.",
        [("class", f"{type(loader).__module__}.{type(loader).__qualname__}"), ("found", what)],
        "Let its __iter__ yield one batch for each batch of super().__iter__(), in their order. What splits, repeats, "
        "filters or merges them belongs into the dataset, its sampler, collate_fn or the training step.",
    )
