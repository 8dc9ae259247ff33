"""Batches that know of which epoch each index is, and how often it came earlier in it, on any number of ranks."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from resumable import ConfigurationError, Order, Sequential, Shuffled, sample_seed
from resumable.feeds.draws import Draw, Draws, SampleIndex, Tally
from resumable.feeds.feed import Feed, Shard
from resumable.feeds.from_dataloader import feed_of
from resumable.feeds.order_feed import OrderFeed
from resumable.steps.batch_plan import BatchPlan, DropLast
from tests.support.reference import numbers


class Repeating:
    """An order in which indices come again."""

    seed: int | None = None
    kind = "repeating"

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """Squares, so that some come several times."""
        return (np.arange(start, stop, dtype=np.int64) ** 2 + epoch) % self._length


def of_all_ranks(feeds: list[Feed], epoch: int, offset: int, count: int | None) -> Iterator[tuple[Any, Draw]]:
    """The indices and draws of all ranks in the global order."""
    for batches in zip(*(feed.draws(epoch, offset, count) for feed in feeds), strict=True):
        for batch in batches:
            for number, index in enumerate(batch):
                yield int(index), (batch.epoch, 0) if batch.of is None else batch.of[number]


@given(data=st.data())
def test_draws_depend_on_the_global_order_alone(data: st.DataObject) -> None:
    """From the epoch's start or from any offset, on any number of ranks: each index's draw is how often it came before."""
    length, ranks, micro = (data.draw(st.integers(1, most)) for most in (30, 3, 4))
    kinds: list[Order] = [Sequential(length), Shuffled(length, 3), Repeating(length)]
    order = data.draw(st.sampled_from(kinds))
    tails: list[DropLast] = [False, True, "carry"]
    drop_last = data.draw(st.sampled_from(tails))
    plan = BatchPlan(length, micro * ranks, drop_last)
    if not plan.batches:
        return
    epoch, count = data.draw(st.integers(0, 3)), 2 * plan.batches + 1 if plan.carries else None
    feeds: list[Feed] = [OrderFeed(order, plan, Shard(rank, ranks)) for rank in range(ranks)]
    whole = list(of_all_ranks(feeds, epoch, 0, count))
    seen: Counter[tuple[int, int]] = Counter()
    for place, (index, draw) in enumerate(whole):
        of_epoch = epoch + place // length if plan.carries else epoch
        assert draw == (of_epoch, seen[of_epoch, index])
        seen[of_epoch, index] += 1
    after = data.draw(st.integers(0, plan.batches - 1))
    left = None if count is None else count - after
    assert whole[after * plan.batch_size :] == list(of_all_ranks(feeds, epoch, after * plan.batch_size, left))


class Grouped:
    """A batch sampler whose batches share indices, in arrays."""

    batch_size = 3
    drop_last = False

    def __init__(self, batches: int) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        return (np.array([number, 0, number // 2]) for number in range(self._batches))


@given(batches=st.integers(1, 9), ranks=st.integers(1, 3), after=st.integers(0, 3))
def test_draws_of_a_batch_sampler(batches: int, ranks: int, after: int) -> None:
    """The same rule; its batches keep their type, and the ones that fill a last round come again."""
    grouped: Any = Grouped(batches)
    loader = DataLoader(numbers(20), batch_sampler=grouped)
    feeds = [feed_of(loader, 0, Shard(rank, ranks)) for rank in range(ranks)]
    whole = list(of_all_ranks(feeds, 0, 0, None))
    seen: Counter[int] = Counter()
    for index, draw in whole:
        assert draw == (0, seen[index])
        seen[index] += 1
    rounds = min(after, -(-batches // ranks) - 1)
    offset = rounds * ranks * 3
    assert whole[offset:] == list(of_all_ranks(feeds, 0, offset, None))
    assert all(isinstance(batch.given, np.ndarray) for batch in feeds[0].draws(0, 0))


def test_what_a_worker_is_sent() -> None:
    """Everything of a batch arrives; indices know their epoch and draw, and are as good as ints."""
    drawn = Draws([7, 7], 2, [(2, 0), (2, 1)])
    drawn.seed, drawn.passes_epoch = 5, True
    there: Draws = pickle.loads(pickle.dumps(drawn))
    assert [sample_seed(7, 2, 5), sample_seed(7, 2, 5, draw=1)] == list(there.seeds())
    first, second = there.indices()
    assert (first, first.epoch, first.draw) == (7, 2, 0)
    assert (second, second.epoch, second.draw) == (7, 2, 1)
    again: SampleIndex = pickle.loads(pickle.dumps(second))
    assert (again, again.epoch, again.draw) == (7, 2, 1)
    assert [0, 1, 2][SampleIndex.of(1, 0, 0)] == 1


def test_a_whole_batch_has_the_seed_of_its_first_index() -> None:
    """A dataset that fetches whole batches is seeded once."""
    drawn = Draws([4, 9], 1)
    drawn.seed = 3
    assert (sample_seed(4, 1, 3), [4, 9]) == drawn.whole()


@pytest.mark.parametrize("index", ["a", (1, 2), 1.5])
def test_only_whole_numbers_know_their_epoch(index: Any) -> None:
    """The error names the option."""
    with pytest.raises(ConfigurationError, match="pass_epoch=True needs whole numbers"):
        SampleIndex.of(index, 0, 0)


def test_indices_that_are_sequences() -> None:
    """They are told apart by what they hold; where they hold nothing of a known kind, no draw is made up."""
    tensors = [torch.tensor(each) for each in ([1, 2], [1, 2], [2, 1])]
    assert [(0, 0), (0, 1), (0, 0)] == Tally().note(0, tensors) == Tally().note(0, [each.tolist() for each in tensors])
    with pytest.raises(ConfigurationError, match="Random numbers cannot follow"):
        Tally().note(0, [{"a": 1}])
