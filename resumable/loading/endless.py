"""The batches of one epoch after another, for loops that know no epochs: `ResumableLoader.forever`, and `.windows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Protocol
from weakref import ReferenceType, ref

from resumable.checks import whole_number
from resumable.errors import ConfigurationError
from resumable.loading.dataloader import T, T_co
from resumable.loading.trainer_loops import is_sanity_check
from resumable.protocols import SavesState
from resumable.state import ResumptionState

__all__ = ["EndlessBatches", "WINDOW", "HasPosition", "Windows"]

WINDOW: Final = "_resumable_window"
"""The attribute of a loader that refers to the last pass of its windows."""

_END: Final = object()


class EndlessBatches(Iterator[T]):
    """The batches of the passes that *begin* begins, without an end.

    *begin* is told whether it is the first one. It goes on after the error of a sample, as a pass does, and ends when it is closed.

    >>> batches = EndlessBatches(lambda is_first: iter("ab"))
    >>> [next(batches) for _ in range(5)]
    ['a', 'b', 'a', 'b', 'a']
    >>> batches.close()
    >>> list(batches)
    []
    """

    def __init__(self, begin: Callable[[bool], Iterator[T]]) -> None:
        self._begin = begin
        self._batches: Iterator[T] | None = None
        self._is_first = True
        self._is_closed = False

    def __next__(self) -> T:
        try:
            for _ in range(3):  # the end of a pass, that of an epoch without a batch left, and a whole epoch
                if self._is_closed:
                    raise StopIteration
                if self._batches is None:
                    self._batches, self._is_first = self._begin(self._is_first), False
                batch = next(self._batches, _END)
                if batch is not _END:
                    return batch  # type: ignore[return-value]
                self._batches = None
        except BaseException:
            del self  # what holds the error does not hold the iterator, and so a pass
            raise
        raise ConfigurationError(
            "An epoch has no batch, so an endless iterator would never give one.",
            [("epochs tried", 2)],
            "Give the loader a dataset that is not empty.",
        )

    def close(self) -> None:
        """End it, and with it the pass that is under way and its workers; the position stays where it is."""
        self._is_closed, self._batches = True, None


class HasPosition(SavesState, Protocol[T_co]):
    """What `Windows` need of their loader."""

    @property
    def state(self) -> ResumptionState:
        """Its position."""
        ...

    def __iter__(self) -> Iterator[T_co]: ...


class Windows(Iterable[T]):
    """An iterable of *batches* batches of *loader*, each time those that come next, as *begin* begins it.

    A pass that begins ends the one before it, of any windows of the loader, and so does a load. A validation of Lightning
    counts like a loop's, except for the sanity check before the first step, which moves nothing.
    """

    def __init__(self, loader: HasPosition[T], batches: int, begin: Callable[[bool], Iterator[T]]) -> None:
        self.loader = loader
        self._begin = begin
        self.batches: int = whole_number("batches", batches, least=1)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[T]:
        if is_sanity_check():
            return islice(iter(self.loader), self.batches)
        self._end_pass()
        batches = EndlessBatches(self._begin)
        vars(self.loader)[WINDOW] = ref(batches)
        return _Window(batches, self.batches)

    def _end_pass(self) -> None:
        last: ReferenceType[EndlessBatches[T]] | None = vars(self.loader).get(WINDOW)
        batches = None if last is None else last()
        if batches is not None:
            batches.close()

    @property
    def state(self) -> ResumptionState:
        """The position that the next window begins at."""
        return self.loader.state

    def state_dict(self) -> dict[str, Any]:
        """The position as a dict of JSON types; see `ResumptionState.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Go on from a saved position; see `ResumptionState.load_state_dict`."""
        self._end_pass()
        self.loader.load_state_dict(state_dict)


class _Window(Iterator[T]):
    """The next *left* of *batches*, which are closed with the last of them. It goes on after an error."""

    def __init__(self, batches: EndlessBatches[T], left: int) -> None:
        self._batches = batches
        self._left = left

    def __next__(self) -> T:
        if not self._left:
            raise StopIteration
        batch = next(self._batches)
        self._left -= 1
        if not self._left:
            self._batches.close()
        return batch
