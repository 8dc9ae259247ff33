"""Batch samplers whose batches have any form, size and number: trained as torch trains them, and counted truly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler

from resumable import ConfigurationError, ConstantBatchSize, ResumptionWarning, StateError, resumable, resumption_of
from resumable.feeds.drawn import DrawnPlan
from resumable.feeds.feed import Shard
from resumable.feeds.replay import ReplayedSampler
from resumable.feeds.sampler_feeds import BatchSamplerFeed, RankLocalFeed
from resumable.position import Position
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from tests.support.batch_samplers import BATCH_SAMPLERS, BatchSampled, N, SaysFour, Varying, undecorated


class Given(Sampler[list[int]]):
    """The batches of each epoch as they are given; later epochs are as the last one."""

    def __init__(self, epochs: list[list[int]]) -> None:
        self.epochs, self.epoch = epochs, 0

    def set_epoch(self, epoch: int) -> None:
        """As torch's DistributedSampler has it."""
        self.epoch = min(epoch, len(self.epochs) - 1)

    def __iter__(self) -> Iterator[list[int]]:
        first = 0
        for size in self.epochs[self.epoch]:
            yield list(range(first, first + size))
            first += size

    def __len__(self) -> int:
        return len(self.epochs[self.epoch])


EPOCHS_OF_SIZES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=3)


def feed_of(epochs: list[list[int]], rank: int = 0, size: int = 1, *, drop_last: bool = False) -> BatchSamplerFeed:
    """One rank's feed of these batches."""
    sampler = ReplayedSampler(Given(epochs), 0, batched=True)
    return BatchSamplerFeed(sampler, BatchPlan(100, size, drop_last), Shard(rank, size), length=100, is_ragged=True)


@pytest.mark.parametrize("name", BATCH_SAMPLERS)
def test_every_cut_of_every_shape(name: str) -> None:
    """What is trained, and how many samples that are, is as without the package, wherever the run is cut."""
    make = BATCH_SAMPLERS[name]
    expected = list(chain.from_iterable(undecorated(make())))
    whole = BatchSampled(make)
    assert expected == whole.take()
    assert sum(map(len, expected)) == resumption_of(whole).consumed_samples
    for cut in range(1, len(expected), 3):
        data = BatchSampled(make)
        before = data.take(cut)
        assert sum(map(len, before)) == resumption_of(data).consumed_samples
        resumed = data.again()
        middle = resumed.take(1)
        last = resumed.again()
        assert expected == before + middle + last.take(), cut
        assert sum(map(len, expected)) == resumption_of(last).consumed_samples


def test_with_workers() -> None:
    """What workers draw ahead counts for nothing."""
    data = BatchSampled(Varying, num_workers=2)
    expected = list(chain.from_iterable(undecorated(Varying())))
    before = data.take(4)
    assert expected == before + data.again().take()


@given(EPOCHS_OF_SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(0, 8), st.booleans())
@settings(deadline=None)
def test_ranks_share_batches_of_any_size(
    epochs: list[list[int]], before: int, after: int, rounds: int, drop_last: bool
) -> None:
    """Ranks take turns, and another number of them goes on with the very next batch."""
    epochs = [sizes * (1 + 2 * drop_last) for sizes in epochs]  # enough for a round, where a short one is dropped
    at = feed_of(epochs, 0, before, drop_last=drop_last).plan.advance(Position(), rounds)
    sizes = epochs[min(at.epoch, len(epochs) - 1)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    trained = starts.index(at.offset)
    feeds = [feed_of(epochs, rank, after, drop_last=drop_last) for rank in range(after)]
    rounds_left = zip(*(feed.batches(at.epoch, at.offset) for feed in feeds), strict=True)
    got = [batch[0] for of_round in rounds_left for batch in of_round]
    left = starts[trained:]
    if drop_last:
        assert got == left[: len(left) // after * after]
    else:
        assert got == left + (starts * after)[: -len(left) % after]
        padded = sum((sizes * after)[: -len(left) % after])
        assert [padded] * after == [feed.padded_samples(at.offset, at.epoch) for feed in feeds]


@given(EPOCHS_OF_SIZES, st.integers(0, 20))
@settings(deadline=None)
def test_the_plan_counts_what_is_drawn(epochs: list[list[int]], batches: int) -> None:
    """A plan's positions are the sums of the batches' sizes, however they are asked for."""
    flat: list[tuple[int, int]] = []
    for epoch in range(30):
        flat += [(epoch, size) for size in epochs[min(epoch, len(epochs) - 1)]]
    consumed = sum(size for _, size in flat[:batches])
    epoch = flat[batches][0]
    offset = sum(size for of, size in flat[:batches] if of == epoch)
    plan = feed_of(epochs).plan
    expected = Position(consumed, epoch, offset)
    assert expected == plan.advance(Position(), batches) == feed_of(epochs).plan.position_at(consumed)
    assert expected == plan.canonical(expected) == feed_of(epochs).plan.canonical(expected)
    assert expected == plan.position_in(epoch, plan.done(expected))
    sizes = epochs[min(epoch, len(epochs) - 1)]
    assert len(sizes) == plan.done(expected) + plan.batches_left(offset, epoch)
    assert list(feed_of(epochs).batches(epoch, offset)) == list(plan_batches(sizes))[plan.done(expected) :]


def plan_batches(sizes: list[int]) -> Iterator[list[int]]:
    """The batches that `Given` yields."""
    return iter(Given([sizes]))


def test_an_offset_inside_a_batch_goes_on_with_its_rest() -> None:
    """Where the batches have changed in mid-epoch, no sample is lost or repeated."""
    feed = feed_of([[3, 3, 2]])
    assert [[4, 5], [6, 7]] == list(feed.batches(0, 4))
    assert Position(6, 0, 6) == feed.plan.advance(Position(4, 0, 4), 1)


def test_a_copy_in_mid_epoch() -> None:
    """The draws under way are no part of a copy."""
    feed = feed_of([[3, 3, 2]])
    drawn = feed.batches(0, 0)
    next(drawn)
    copies = [copy.deepcopy(feed), pickle.loads(pickle.dumps(feed))]
    rest = list(drawn)
    assert [rest, rest] == [list(each.batches(0, 3)) for each in copies]


def test_a_schedule_needs_batches_of_one_size() -> None:
    """A schedule counts samples, so other batches are refused: before the loop, or where their size is seen."""

    @resumable(schedule=ConstantBatchSize(8))
    class Scheduled:
        trainer = None

        def __init__(self, make: Any) -> None:
            self.make = make

        def train_dataloader(self) -> Any:
            return DataLoader(range(N), batch_sampler=self.make())  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match="batches of one size"):
        Scheduled(Varying).train_dataloader()
    with pytest.raises(ConfigurationError, match="batches of one size"):
        next(iter(Scheduled(SaysFour).train_dataloader()))


def test_the_ledger_knows_no_steps_of_batches_of_any_size() -> None:
    """Steps and samples do not follow from each other there, and nothing pretends that they do."""
    data = BatchSampled(Varying)
    data.take(5)
    saved = data.state_dict()
    assert [0, 0, 0, 0, UNBOUNDED, 1, 1, 1, 0, False, None, "Varying"] == saved["ledger"][0]
    assert ["Varying", N, 0] == saved["order"]
    resumed = data.again()
    resumed.take(1)
    assert 1 == len(resumed.state_dict()["ledger"])
    with pytest.raises(StateError, match="only the name"):
        resumption_of(resumed).ledger.global_step_at(3)
    assert "epoch 0, sample" in resumption_of(resumed).describe()


def test_a_state_that_counted_batches() -> None:
    """Before, each batch counted one sample: such a state goes on at the same batch, with the true count."""
    expected = list(chain.from_iterable(undecorated(Varying())))
    first = len(undecorated(Varying())[0])
    for batches in (3, first + 2):
        epoch, offset = divmod(batches, first)
        data = BatchSampled(Varying)
        row = [0, 0, 0, 0, first, 1, 1, 1, 0, False, None, None]
        old: dict[str, Any] = {
            "format": 3,
            "consumed_samples": batches,
            "epoch": epoch,
            "offset": offset,
            "global_step": None,
        }
        old |= {"order": ["Varying", first, 0], "commits": False, "canary": None, "loaders": [], "ledger": [row]}
        data.load_state_dict(old)
        assert expected[batches:] == data.take()
        assert sum(map(len, expected)) == resumption_of(data).consumed_samples


def test_one_ranks_own_batches_of_any_size_are_said_to_be_counted() -> None:
    """The other ranks' batches have sizes of their own: batches are counted, which a warning says once."""
    own = BatchSamplerFeed(ReplayedSampler(Given([[3, 1, 2]]), 0, batched=True), BatchPlan(3, 1), is_ragged=True)
    feed = RankLocalFeed(own, Shard(1, 2, already_sharded=True))
    with pytest.warns(ResumptionWarning, match="consumed_samples counts batches"):
        assert [[0, 1, 2], [3], [4, 5]] == list(feed.batches(0, 0))
    assert isinstance(feed.plan, DrawnPlan)
    assert Position(4, 0, 4) == feed.plan.advance(Position(), 2)
    assert [[4, 5]] == list(feed.batches(0, 4))
