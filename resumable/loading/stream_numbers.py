"""The batches of a stream by their number: what its random numbers follow from, in workers and without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from resumable.feeds.draws import Draws, DrawsSampler
from resumable.loading.dataloader import SeekableLoader
from resumable.loading.reseeding import seed_generators
from resumable.randomness import seed_of_draw

__all__ = ["number_batches", "seeded"]


class _Numbered(DrawsSampler):
    """In place of torch's sampler of a stream, which gives workers nothing to tell their batches apart by."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.epoch: int = 0

    def __iter__(self) -> Iterator[Draws]:
        return self.marked(Draws(self._given, self.epoch, number=number) for number in count())


def number_batches(loader: SeekableLoader[Any], seed: int, epoch: int, /) -> None:
    """Let the workers of *loader* seed random numbers before each batch of its next pass, that of *epoch*."""
    slot = "sampler" if loader.batch_sampler is None else "batch_sampler"
    numbered: Any = getattr(loader, slot)
    if not isinstance(numbered, _Numbered):
        # torch refuses to set this after __init__; between two passes the one attribute that is iterated is exchanged
        numbered = _Numbered(None if loader.batch_size is None else [None] * loader.batch_size)
        vars(loader)[slot] = numbered
    numbered.reseed, numbered.epoch = seed, epoch


def seeded(begin: Callable[[], Iterator[Any]], seed: int, epoch: int, number: int, /) -> Iterator[Any]:
    """The pass that *begin* begins, whose first batch is the *number*-th of *epoch*; without workers."""
    seed_generators(seed_of_draw(number, epoch, seed, 0))
    batches = begin()
    while True:
        seed_generators(seed_of_draw(number, epoch, seed, 0))
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch
        number += 1
