"""The draws of every kind of sampler: as its plain batches, counted over all ranks, and the same from any position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from resumable import Sequential, Shuffled
from resumable.feeds.draws import Draw
from resumable.feeds.feed import Feed, Shard
from resumable.feeds.from_dataloader import feed_of
from resumable.feeds.order_feed import OrderFeed
from resumable.steps.batch_plan import BatchPlan

Drawn = list[tuple[int, Draw]]


class Ragged:
    """Batches of 1, 2 and 3 indices, of which some come again."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[list[int]]:
        order = list(map(int, torch.randperm(self.length)))
        size = 0
        while order:
            size = size % 3 + 1
            yield [index // 2 for index in order[:size]]
            del order[:size]


class Repeats(Sampler[int]):
    """Indices that come again, by a generator of the process."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return map(int, torch.randint(1 + self.length // 3, (self.length,)))


def numbers(length: int) -> Any:
    """What torch takes as a dataset: its samples are their indices."""
    return range(length)


def loader_of(kind: str, length: int, size: int) -> DataLoader[Any]:
    """A loader of so many samples, in batches of *size* where the kind has one."""
    samplers: dict[str, Callable[[], Any]] = {
        "replaced": lambda: RandomSampler(numbers(length), replacement=True, num_samples=length),
        "weighted": lambda: WeightedRandomSampler([1.0] * length, length),
        "repeated": lambda: Repeats(length),
    }
    if kind in samplers:
        return DataLoader(numbers(length), batch_size=size, sampler=samplers[kind]())
    own: dict[str, Callable[[], Any]] = {
        "ragged": lambda: Ragged(length),
        "batches": lambda: BatchSampler(RandomSampler(numbers(length)), size, drop_last=False),
    }
    if kind in own:
        return DataLoader(numbers(length), batch_sampler=own[kind]())
    return DataLoader(numbers(length), batch_size=None if kind == "single" else size, shuffle=kind != "in order")


KINDS = ["in order", "shuffled", "replaced", "weighted", "repeated", "ragged", "batches", "single"]


def drawn_by(feeds: list[Feed], epoch: int, offset: int = 0, count: int | None = None) -> list[Drawn]:
    """The batches of all ranks in turn: indices and their draws."""
    batches: list[Drawn] = []
    for of_round in zip(*(feed.draws(epoch, offset, count) for feed in feeds), strict=True):
        for batch in of_round:
            draws = [(batch.epoch, 0)] * len(batch) if batch.of is None else batch.of
            batches.append([(int(index), draw) for index, draw in zip(batch, draws, strict=True)])
    return batches


def flat(batches: list[Drawn]) -> Drawn:
    """The samples of *batches*."""
    return [sample for batch in batches for sample in batch]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data(), length=st.integers(1, 25), size=st.integers(1, 5), ranks=st.integers(1, 3))
def test_draws_of_any_sampler(kind: str, data: st.DataObject, length: int, size: int, ranks: int) -> None:
    """Each index is that of the plain batches, and its draw how often it came before in the epoch, on whichever rank."""
    epoch, later = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3))

    def feeds(ranks: int = ranks, size: int = size) -> list[Feed]:
        return [feed_of(loader_of(kind, length, size), 3, Shard(rank, ranks)) for rank in range(ranks)]

    whole, seen = drawn_by(feeds(), epoch), Counter[int]()
    plain = zip(*(feed.batches(epoch, 0) for feed in feeds()), strict=True)
    assert [[int(index) for index in batch] for of_round in plain for batch in of_round] == [
        [index for index, _ in batch] for batch in whole
    ]
    for index, draw in flat(whole):
        assert draw == (epoch, seen[index])
        seen[index] += 1
    after, again = data.draw(st.integers(0, len(whole) // ranks - 1)), feeds()
    offset = again[0].plan.offset_after(0, after, epoch)
    assert whole[after * ranks :] == drawn_by(again, epoch, offset)
    others = flat(drawn_by(feeds(later), epoch))
    common = min(len(others), len(flat(whole)))
    assert flat(whole)[:common] == others[:common]


@given(data=st.data(), kind=st.sampled_from(["in order", "shuffled", "replaced", "repeated", "batches"]))
def test_another_batch_size_in_mid_epoch(data: st.DataObject, kind: str) -> None:
    """The rest of the epoch draws what it would have drawn."""
    length, size, later = (data.draw(st.integers(1, most)) for most in (25, 5, 5))
    whole = flat(drawn_by([feed_of(loader_of(kind, length, size), 3, Shard())], 1))
    offset = data.draw(st.integers(0, length - 1))
    assert whole[offset:] == flat(drawn_by([feed_of(loader_of(kind, length, later), 3, Shard())], 1, offset))


@given(data=st.data(), shuffles=st.booleans(), ranks=st.integers(1, 3), micro=st.integers(1, 4))
def test_batches_that_lead_into_the_next_epoch(data: st.DataObject, shuffles: bool, ranks: int, micro: int) -> None:
    """drop_last="carry": each index is drawn once in its own epoch."""
    length, epoch = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 2))
    order = Shuffled(length, 3) if shuffles else Sequential(length)

    def feeds(ranks: int, micro: int) -> list[Feed]:
        return [
            OrderFeed(order, BatchPlan(length, ranks * micro, "carry"), Shard(rank, ranks)) for rank in range(ranks)
        ]

    offset, rounds = data.draw(st.integers(0, length - 1)), 1 + 3 * length // (ranks * micro)
    one = flat(drawn_by(feeds(1, 1), epoch, 0, offset + rounds * ranks * micro))
    assert [(epoch + place // length, 0) for place in range(len(one))] == [draw for _, draw in one]
    assert one[offset:] == flat(drawn_by(feeds(ranks, micro), epoch, offset, rounds))


@pytest.mark.filterwarnings("ignore:Each rank draws batches of its own:resumable.ResumptionWarning")
@settings(max_examples=30)
@given(data=st.data(), distributed=st.booleans(), kind=st.sampled_from(["shuffled", "ragged", "repeated", "batches"]))
def test_loaders_that_share_the_data_out_themselves(data: st.DataObject, distributed: bool, kind: str) -> None:
    """Each rank's batches are its loader's own, and go on anywhere."""
    length, size, rank = data.draw(st.integers(2, 25)), data.draw(st.integers(1, 5)), data.draw(st.integers(0, 1))

    def feed() -> Feed:
        if distributed:
            shared: DataLoader[Any] = DataLoader(
                numbers(length), batch_size=size, sampler=DistributedSampler(numbers(length), 2, rank, shuffle=True)
            )
            return feed_of(shared, 3, Shard(rank, 2))
        return feed_of(loader_of(kind, length, size), 3, Shard(rank, 2, already_sharded=True))

    whole = drawn_by([feed()], 1)
    assert [list(map(int, batch)) for batch in feed().batches(1, 0)] == [[index for index, _ in each] for each in whole]
    after, again = data.draw(st.integers(0, len(whole) - 1)), feed()
    assert whole[after:] == drawn_by([again], 1, again.plan.offset_after(0, after, 1))
