"""The feed of each kind of sampler: torch's DistributedSampler, one without a length, batches for the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from resumable import resumable, resumption_of
from resumable.feeds.feed import Shard
from resumable.feeds.from_dataloader import feed_of
from resumable.feeds.order_feed import OrderFeed
from resumable.position import Position
from tests.support.batch_samplers import N


def distributed(length: int, ranks: int, rank: int, size: int, *, drops: bool = False, **options: Any) -> Any:
    """A loader with torch's sampler of one rank; *drops* is the loader's own drop_last."""
    sampler: Any = DistributedSampler(range(length), num_replicas=ranks, rank=rank, **options)  # type: ignore[arg-type]
    return DataLoader(range(length), batch_size=size, sampler=sampler, drop_last=drops)  # type: ignore[arg-type]


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 4), st.tuples(*[st.booleans()] * 3))
def test_a_distributed_sampler_drops_and_pads_as_torch_does(
    ranks: int, extra: int, size: int, flags: tuple[bool, bool, bool]
) -> None:
    """Each rank has as many batches as with torch. With drop_last=True no sample is trained twice."""
    length, (drop_last, shuffle, drops) = ranks * size + extra, flags
    options = {"shuffle": shuffle, "drop_last": drop_last, "drops": drops}
    loaders = [distributed(length, ranks, rank, size, **options) for rank in range(ranks)]
    expected = [[len(batch) for batch in each] for each in loaders]
    assert expected == [list(map(len, feed_of(each, 0, Shard()).batches(0, 0))) for each in loaders]
    trained = [list(chain.from_iterable(feed_of(each, 0, Shard()).batches(0, 0))) for each in loaders]
    every = sorted(chain.from_iterable(trained))
    if drop_last:
        assert len(every) == len(set(every))
        if not shuffle:
            assert list(range(len(every))) == every
    elif not drops:
        assert set(range(length)) == set(every)


def test_samples_that_all_ranks_leave_out_end_the_epoch() -> None:
    """The plan is that of the samples that are trained."""
    feed = feed_of(distributed(10, 3, 0, 1, shuffle=False, drop_last=True), 0, Shard())
    assert Position(9, 1, 0) == feed.plan.advance(Position(), 3)
    assert 0 == feed.padded_samples(0)


class Reversed(DistributedSampler[int]):
    """A subclass, which shares the data out in its own way."""

    def __iter__(self) -> Iterator[int]:
        return iter([*super().__iter__()][::-1])


@resumable
class Ranked:
    """A datamodule for a loop on one of three ranks."""

    trainer = None

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def train_dataloader(self) -> Any:
        """With a sampler that knows the ranks."""
        sampler: Any = Reversed(range(N), num_replicas=3, rank=self.rank)  # type: ignore[arg-type]
        return DataLoader(range(N), batch_size=2, sampler=sampler)  # type: ignore[arg-type]


def test_a_sampler_that_knows_ranks_counts_all_of_them() -> None:
    """In a loop too, all ranks have the same state, which each of them can load, and samples are those of all ranks."""
    ranks = [Ranked(rank) for rank in range(3)]
    trained = [[batch.tolist() for batch in islice(data.train_dataloader(), 3)] for data in ranks]
    states = [resumption_of(data) for data in ranks]
    saved = states[0].state_dict()
    assert [saved] * 3 == [state.state_dict() for state in states]
    assert 18 == states[0].consumed_samples
    for rank, before in enumerate(trained):
        data = Ranked(rank)
        resumption_of(data).load_state_dict(saved)
        rest = [batch.tolist() for batch in data.train_dataloader()]
        assert [batch.tolist() for batch in Ranked(rank).train_dataloader()] == before + rest


def test_a_state_that_counted_one_rank() -> None:
    """Before, a loop counted the samples of its own rank: such a state goes on at the same batch."""
    row = [0, 0, 0, 0, 8, 2, 1, 1, 0, False, None, None]
    old: dict[str, Any] = {"format": 3, "consumed_samples": 6, "epoch": 0, "offset": 6, "global_step": None}
    old |= {"order": ["Reversed", 8, 0], "commits": False, "canary": "00000000", "loaders": [], "ledger": [row]}
    data, whole = Ranked(1), Ranked(1)
    expected = [batch.tolist() for batch in whole.train_dataloader()][3:]
    data_loader = data.train_dataloader()
    data_loader.load_state_dict(old)
    assert expected == [batch.tolist() for batch in data_loader]
    assert 24 == resumption_of(data).consumed_samples


class Unsized(Sampler[int]):
    """A sampler that does not say how long it is."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, N, 2))


def test_a_sampler_without_a_length() -> None:
    """Torch trains it, and so does its feed, in the batches that torch makes."""
    loader: Any = DataLoader(range(N), sampler=Unsized(), batch_size=5)  # type: ignore[arg-type]
    feed = feed_of(loader, 0, Shard())
    expected = [batch.tolist() for batch in loader]
    assert expected == list(feed.batches(0, 0))
    assert expected[1:] == list(feed.batches(0, 5))
    assert Position(12, 1, 0) == feed.plan.advance(Position(), 3)


class Whole(list[int]):
    """A dataset that takes a list of indices."""

    def __getitem__(self, index: Any) -> Any:
        return torch.tensor(index)


@pytest.mark.parametrize("inner", [SequentialSampler, RandomSampler])
def test_batches_that_are_given_to_the_dataset(inner: Any) -> None:
    """Torch's way to load whole batches: `sampler=BatchSampler(...)` and `batch_size=None`. Samples are counted."""
    sampler = BatchSampler(inner(range(N)), 4, drop_last=False)
    loader: Any = DataLoader(Whole(range(N)), sampler=sampler, batch_size=None)  # type: ignore[arg-type]
    feed = feed_of(loader, 0, Shard())
    drawn = list(feed.batches(0, 0))
    assert list(range(N)) == sorted(chain.from_iterable(drawn))
    assert [4, 4, 4, 4, 4, 3] == [len(batch) for batch in drawn]
    assert Position(20, 0, 20) == feed.plan.advance(Position(), 5)
    assert ("BatchSampler", N) == (feed.identity.kind, feed.identity.length)


def test_torchs_plain_samplers_are_orders() -> None:
    """They start anywhere, without being drawn."""
    assert isinstance(feed_of(DataLoader(range(N), shuffle=True), 0, Shard()), OrderFeed)  # type: ignore[arg-type]
