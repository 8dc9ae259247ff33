"""Loader classes with an `__iter__` of their own, as users write them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from queue import Queue
from typing import Any, cast

__all__ = ["SHAPES", "class_of"]

Batches = Callable[[], Iterator[Any]]
"""`super().__iter__`."""


def changed(loader: Any, batches: Batches) -> Iterator[Any]:
    """One for one, as in `batch.to(device)`."""
    for batch in batches():
        yield batch + 100


def ahead(loader: Any, batches: Batches) -> Iterator[Any]:
    """One is always taken already."""
    waiting: deque[Any] = deque()
    for batch in batches():
        waiting.append(batch)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def in_a_thread(loader: Any, batches: Batches) -> Iterator[Any]:
    """A thread takes them, as many ahead as its queue holds."""
    queue: Queue[Any] = Queue(2)
    source = batches()

    def fill() -> None:
        for batch in source:
            queue.put(batch)
        queue.put(None)

    threading.Thread(target=fill, daemon=True).start()
    while (batch := queue.get()) is not None:
        yield batch


def all_at_first(loader: Any, batches: Batches) -> Iterator[Any]:
    """The whole epoch is read before its first batch."""
    return iter(list(batches()))


def by_number(loader: Any, batches: Batches) -> Iterator[Any]:
    """As many as `len()` says."""
    return islice(batches(), len(loader))


class _Next:
    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.batches)


def an_iterator(loader: Any, batches: Batches) -> Iterator[Any]:
    """An object with `__next__`."""
    return _Next(batches())


def after_a_look(loader: Any, batches: Batches) -> Iterator[Any]:
    """The first batch is looked at before the pass."""
    next(batches())
    yield from batches()


def every_other(loader: Any, batches: Batches) -> Iterator[Any]:
    """A filter."""
    return (batch for batch in batches() if int(batch[0]) % 2)


def all_but_the_first(loader: Any, batches: Batches) -> Iterator[Any]:
    """The first is left out."""
    return islice(batches(), 1, None)


def all_but_the_last(loader: Any, batches: Batches) -> Iterator[Any]:
    """The last is left out."""
    waiting: Any = None
    for batch in batches():
        if waiting is not None:
            yield waiting
        waiting = batch


def the_first_two(loader: Any, batches: Batches) -> Iterator[Any]:
    """A part of an epoch."""
    return islice(batches(), 2)


def before_the_third(loader: Any, batches: Batches) -> Iterator[Any]:
    """A part of an epoch, and one batch of the rest is read."""
    for number, batch in enumerate(batches()):
        if number == 2:
            return
        yield batch


def ahead_and_changed(loader: Any, batches: Batches) -> Iterator[Any]:
    """A prefetcher to the GPU."""
    return (batch + 100 for batch in ahead(loader, batches))


def every_other_changed(loader: Any, batches: Batches) -> Iterator[Any]:
    """A filter that also changes."""
    return (batch + 100 for batch in every_other(loader, batches))


def halves(loader: Any, batches: Batches) -> Iterator[Any]:
    """Each in two."""
    for batch in batches():
        yield batch[:1]
        yield batch[1:]


def twice(loader: Any, batches: Batches) -> Iterator[Any]:
    """An echo."""
    return chain.from_iterable((batch, batch) for batch in batches())


def merged(loader: Any, batches: Batches) -> Iterator[Any]:
    """Two become one."""
    iterator = batches()
    for batch in iterator:
        yield (batch, next(iterator, batch))


def kept(loader: Any, batches: Batches) -> Iterator[Any]:
    """The batches of the first pass, again and again."""
    if not hasattr(loader, "kept"):
        loader.kept = list[Any]()
        for batch in batches():
            loader.kept.append(batch)
            yield batch
        return
    yield from loader.kept


def held(loader: Any, batches: Batches) -> Iterator[Any]:
    """Parts of an epoch from one iterator, over its end."""
    for _ in range(3):
        if not hasattr(loader, "held"):
            loader.held = batches()
        batch = next(loader.held, None)
        if batch is None:
            loader.held = batches()
            batch = next(loader.held)
        yield batch


def two_rounds(loader: Any, batches: Batches) -> Iterator[Any]:
    """The epoch twice."""
    yield from batches()
    yield from batches()


def reordered(loader: Any, batches: Batches) -> Iterator[Any]:
    """Each two in the other order."""
    iterator = batches()
    for batch in iterator:
        following = next(iterator, None)
        if following is not None:
            yield following
        yield batch


EXACT = [changed, ahead, in_a_thread, all_at_first, by_number, an_iterator, after_a_look]
LEFT_OUT = [every_other, all_but_the_first, all_but_the_last]
OTHERS = [
    before_the_third,
    ahead_and_changed,
    every_other_changed,
    halves,
    twice,
    merged,
    kept,
    held,
    two_rounds,
    reordered,
]
SHAPES: dict[str, Callable[[Any, Batches], Iterator[Any]]] = {
    shape.__name__: shape for shape in (*EXACT, *LEFT_OUT, the_first_two, *OTHERS)
}


def class_of(base: type[Any], shape: Callable[[Any, Batches], Iterable[Any]]) -> Any:
    """A loader class that derives from *base*, of this shape."""

    def own(self: Any) -> Iterable[Any]:
        batches = cast("Any", super(cls, self).__iter__)  # pyright: ignore[reportUnknownMemberType]
        return shape(self, batches)

    cls: Any = type(shape.__name__, (base,), {"__iter__": own, "__module__": __name__})
    return cls
