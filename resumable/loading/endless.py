"""The batches of one epoch after another, for loops that know no epochs: `ResumableLoader.forever`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from resumable.errors import ConfigurationError
from resumable.loading.dataloader import T

__all__ = ["EndlessBatches"]

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
