"""Loaders of several ranks, and loops over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from resumable import LinearRampup
from resumable.steps.batch_plan import DropLast
from tests.support.reference import Loader, batches_of

TAILS: list[DropLast] = [False, True, "carry"]


def taken(batches: Iterable[Any], number: int) -> list[Any]:
    """So many of them."""
    return list(islice(batches, number))


def ramped(n: int = 22, tail: DropLast = False, **options: Any) -> Any:
    """A loader in batches of 2 whose steps take 4, 8 and 12 samples."""
    schedule = options.pop("schedule", LinearRampup(start=4, end=12, increment=4, rampup_samples=30))
    return Loader(range(n), batch_size=2, schedule=schedule, drop_last=tail, **options)


def steps_of(loader: Any, epochs: int, *, commits: bool = True) -> Iterator[list[list[int]]]:
    """The loop of the README: so many micro batches as the loader says, then a step."""
    micro: list[list[int]] = []
    for batch in batches_of(loader, epochs):
        micro.append(batch)
        if len(micro) == loader.num_microbatches:
            if commits:
                loader.state.commit()
            yield micro
            micro = []
    assert not micro


def flat(parts: Iterable[list[int]]) -> list[int]:
    """Lists as one."""
    return [index for part in parts for index in part]
