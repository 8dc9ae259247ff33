"""The loader of one rank as its process builds it, but for torch's iterators: prefetching without workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, cast

from resumable.loader import ResumableLoader
from tests.proofs.simulation.chains import Chain, Setup

__all__ = ["Rank", "drawn_ahead"]


class Rank(ResumableLoader[list[int]]):
    """A `ResumableLoader` that yields the indices of its batches, drawn as far ahead as workers would.

    Everything else is the loader's own. The loop that accumulates tells its ledger how many batches make a step, as
    Lightning's does.

    >>> from tests.proofs.simulation.chains import Session
    >>> list(Rank(Chain(5, (Session(Setup()),), shuffle=False), Setup(2, 1), 1))
    [[1], [3], [0]]
    """

    def __init__(
        self, chain: Chain, setup: Setup, rank: int, *, accumulation: int = 1, knows_seed: bool = True
    ) -> None:
        sizes = setup.sizes
        super().__init__(
            range(chain.length),
            setup.micro_batch_size,
            chain.shuffle,
            seed=chain.seed if knows_seed else None,
            schedule=None if sizes is None else sizes.schedule,
            data_parallel_rank=rank,
            data_parallel_size=setup.data_parallel_size,
            drop_last=setup.drop_last,
            decrease_batch_size_if_needed=sizes is not None and sizes.rounds_down,
        )
        self.prefetched = setup.num_workers * setup.prefetch_factor
        progress = self._progress
        progress.stretch = replace(progress.stretch, accumulation=accumulation, num_workers=setup.num_workers)

    def _begin(self, iterate: object, /, *, beside: bool = False) -> Iterator[list[int]]:
        sampler = cast("Any", self.batch_sampler)
        sampler.is_open = True
        return drawn_ahead(iter(sampler), self.prefetched)


def drawn_ahead(batches: Iterator[Any], number: int, /) -> Iterator[Any]:
    """*batches*, of which *number* are drawn at once, and another one before each is given.

    So does torch's iterator with `num_workers * prefetch_factor` (torch 2.13, torch/utils/data/dataloader.py,
    `_MultiProcessingDataLoaderIter`).

    >>> source = iter(range(9))
    >>> batches = drawn_ahead(source, 3)
    >>> next(source), next(batches), next(source)
    (3, 0, 5)
    """
    drawn = deque(islice(batches, number))
    return _given(batches, drawn) if number else batches


def _given(batches: Iterator[Any], drawn: deque[Any]) -> Iterator[Any]:
    while drawn:
        batch = drawn.popleft()
        drawn.extend(islice(batches, 1))
        yield batch
