"""The canary: what changes an order under the same name is told on load, at every place, and nothing else is."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Sampler

from resumable import MismatchError, ResumptionWarning, Sequential, Shuffled, resumable, resumption_of
from resumable.orders.canary import AHEAD, Canaries, digest_of
from resumable.protocols import Order
from tests.support.cuts import Cut, checkpoint_in, saved_after_step, saved_at_epoch_end, saved_in
from tests.support.lightning_runs import Scenario, check, numbers, train
from tests.support.reference import Loader

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "canaries.json").read_text())


def by_hand(order: Order, epoch: int, offset: int) -> str:
    """The definition, an index at a time: those of the epoch from *offset* on, then the first of the next epoch."""
    ahead = [*order.indices(epoch, 0, len(order)).tolist()[offset:], *order.indices(epoch + 1, 0, len(order)).tolist()]
    ahead = ahead[: min(AHEAD, len(order) - offset + AHEAD)]
    return f"{zlib.crc32(b''.join(int(index).to_bytes(8, 'little', signed=True) for index in ahead)):08x}"


@dataclass
class Shifted:
    """An order whose kind, length and seed say nothing of *by*."""

    n: int
    by: int = 0

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """All of them, moved on by so many."""
        return (np.arange(start, stop, dtype=np.int64) + self.by) % self.n


class Drawn(Sampler[int]):
    """A sampler whose draws change with *factor*, and with nothing that its name tells."""

    def __init__(self, n: int, factor: int = 1) -> None:
        self.n = n
        self.factor = factor

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        for place in torch.randperm(self.n):
            yield int(place) * self.factor % self.n


@given(n=st.integers(1, 400), seed=st.integers(0, 3), data=st.data())
def test_the_definition_at_every_place(n: int, seed: int, data: st.DataObject) -> None:
    """Whatever was asked before, a canary is that of its place alone: blocks and the end of an epoch do not show."""
    orders: list[Order] = [Shuffled(n, seed), Sequential(n), Shifted(n, seed)]
    order = data.draw(st.sampled_from(orders))
    canaries = Canaries(order)
    for _ in range(5):
        epoch, offset = data.draw(st.integers(0, 2)), data.draw(st.integers(0, n))
        assert by_hand(order, epoch, offset) == canaries.at(epoch, offset)


def test_walking_through_long_epochs() -> None:
    """The same in the strides of a run, over the borders of the long blocks."""
    order = Shuffled(40_000, 3)
    canaries = Canaries(order)
    for place in range(0, 80_000, 700):
        epoch, offset = divmod(place, 40_000)
        assert by_hand(order, epoch, offset) == canaries.at(epoch, offset)


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: f"{entry['kind']} {entry['n']}")
def test_golden_canaries(entry: dict[str, Any]) -> None:
    """A saved canary means for ever what it meant."""
    n, seed = entry["n"], entry["seed"]
    order: Order = Shuffled(n, seed) if entry["kind"] == "shuffled" else Sequential(n)
    assert entry["canary"] == Canaries(order).at(entry["epoch"], entry["offset"])


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([3, 1, 2], "1792f5e4"),
        ([np.int32(3), np.int64(1), 2], "1792f5e4"),
        (["a", "b"], "15e87871"),
        ([(1, 2), (3, 4)], "9c692600"),
        ([], None),
        ([1.5], None),
        ([object()], None),
        ([[1], [2, 3]], None),
        ([1, "a"], None),
        ([2**70], None),
    ],
    ids=range(10),
)
def test_what_can_be_digested(indices: list[Any], expected: str | None) -> None:
    """Numbers by their values, texts; nothing is made up for what has no bytes of its own."""
    assert expected == digest_of(indices)


@pytest.mark.parametrize("taken", range(7))
def test_an_order_that_changed_under_its_name(taken: int) -> None:
    """At every place, the end of an epoch included, another order of the same kind, length and seed is refused."""
    loader = Loader(range(20), batch_size=4, order=Shifted(20))
    for _ in islice((batch for _ in range(2) for batch in loader), taken):
        pass
    state = loader.state_dict()
    other = Loader(range(20), batch_size=4, order=Shifted(20, by=1))
    before = other.state_dict()
    with pytest.raises(MismatchError) as caught:
        other.load_state_dict(state)
    lines = str(caught.value).splitlines()
    assert "The indices that come next are not those that the saved run would have trained." == lines[1]
    assert [f"  saved:   {state['canary']!r}", f"  current: {before_at(other, state)!r}"] == lines[2:4]
    assert before == other.state_dict()
    Loader(range(20), batch_size=4, order=Shifted(20)).load_state_dict(state)


def before_at(loader: Any, state: dict[str, Any]) -> str:
    """The canary of *loader*'s own order where *state* was saved."""
    return by_hand(loader._progress.feed.order, state["epoch"], state["offset"])


@pytest.mark.parametrize("on_mismatch", ["warn", "adopt"])
def test_going_on_all_the_same(on_mismatch: Any) -> None:
    """By policy the run goes on under a warning, and its verdict stays."""
    state = Loader(range(20), batch_size=4, order=Shifted(20)).state_dict()
    loader = Loader(range(20), batch_size=4, order=Shifted(20, by=1), on_mismatch=on_mismatch)
    with pytest.warns(ResumptionWarning, match="The indices that come next are not those"):
        loader.load_state_dict(state)
    assert ("inexact", 1) == (loader.state.verdict.outcome, len(loader.state.verdict.differences))


@pytest.mark.parametrize(
    "current", [{}, {"batch_size": 3}, {"data_parallel_rank": 1, "data_parallel_size": 2}, {"seed": None}], ids=str
)
def test_what_does_not_matter_to_it(current: dict[str, Any]) -> None:
    """Another grouping, other ranks, and a seed that is taken over have the same indices to come."""
    loader = Loader(range(50), batch_size=4, shuffle=True, seed=7)
    next(iter(loader))
    state = loader.state_dict()
    other = Loader(range(50), **{"batch_size": 4, "shuffle": True, "seed": 7, **current})
    other.load_state_dict(state)
    assert other.state.verdict.is_exact
    assert state["canary"] == other.state_dict()["canary"]


def test_a_wrong_epoch_in_a_damaged_state() -> None:
    """A position that is possible but was not that of the canary is refused."""
    loader = Loader(range(20), batch_size=4, shuffle=True)
    for _ in islice((batch for _ in range(3) for batch in loader), 7):
        pass
    state = loader.state_dict()
    wrong = {**state, "epoch": 2, "consumed_samples": state["consumed_samples"] + 20}
    with pytest.raises(MismatchError, match="The indices that come next"):
        Loader(range(20), batch_size=4, shuffle=True).load_state_dict(wrong)


def test_states_without_one_load() -> None:
    """A state of an older version has none, and is gone on with as before."""
    loader = Loader(range(20), batch_size=4, order=Shifted(20))
    state = {**loader.state_dict(), "canary": None}
    Loader(range(20), batch_size=4, order=Shifted(20, by=1)).load_state_dict(state)


class OnlyOneEpoch(Shifted):
    """An order that has been made for one epoch."""

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """Nothing behind it."""
        if epoch:
            raise IndexError(epoch)
        return super().indices(epoch, start, stop)


def test_an_order_that_ends_with_the_run() -> None:
    """Nobody may ever train the next epoch, so an order need not have one: its last state is saved without a canary."""
    loader = Loader(range(8), batch_size=4, order=OnlyOneEpoch(8))
    assert [[0, 1, 2, 3], [4, 5, 6, 7]] == [batch.tolist() for batch in loader]
    assert (1, None) == (loader.state_dict()["epoch"], loader.state_dict()["canary"])


# In Lightning: samplers of the user's own, several loaders, several ranks' feeds.


def loaders_of(kind: str, factor: int, scenario: Scenario) -> Any:
    """Train loaders with a sampler that *factor* changes, and nothing that its name tells."""
    sampler = Drawn(22, factor)
    if kind == "a batch sampler":
        return scenario.loader(batch_sampler=BatchSampler(sampler, 4, drop_last=False))
    own = scenario.loader(sampler=sampler)
    several = {"several loaders": [scenario.loader(), own], "a short one": [scenario.loader(numbers(9)), own]}
    return several.get(kind, own)


@pytest.mark.parametrize("kind", ["a sampler", "a batch sampler", "several loaders"])
def test_a_sampler_that_changed_under_its_name(kind: str, tmp_path: Path) -> None:
    """The sampler's code or its data changed between two sessions: the resume is refused, and goes on if it did not."""
    sessions = [Scenario(loaders=partial(loaders_of, kind, factor)) for factor in (1, 1, 3)]
    saved_after_step(2).carry_out(lambda *callbacks: train(sessions[0], None, *callbacks), tmp_path)
    state = torch.load(checkpoint_in(tmp_path), weights_only=True)["Numbers"]
    assert re.fullmatch("[0-9a-f]{8}", state["canary"])
    train(sessions[1], checkpoint_in(tmp_path))
    with pytest.raises(MismatchError, match="The indices that come next are not those"):
        train(sessions[2], checkpoint_in(tmp_path))


@pytest.mark.parametrize("kind", ["a sampler", "a batch sampler", "several loaders", "a short one"])
@pytest.mark.parametrize(
    "cut",
    [saved_after_step(4), saved_after_step(6), saved_at_epoch_end(0), saved_in("on_train_batch_end", (0, 5))],
    ids=str,
)
def test_a_sampler_that_has_not_begun_its_epoch(cut: Cut, kind: str) -> None:
    """Where an epoch has ended nobody has drawn from the next: that it has a canary on the load is no difference."""
    check(Scenario(loaders=partial(loaders_of, kind, 1)), cut, saved_after_step(9), saved_at_epoch_end(1))


@resumable
class Data:
    """A train loader with a sampler of its own, outside Lightning."""

    trainer = None

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def train_dataloader(self) -> Any:
        sampler = Drawn(22, self.factor)
        return DataLoader(numbers(22), batch_size=4, sampler=sampler)


def test_saving_draws_nothing_from_a_sampler() -> None:
    """The canary of a sampler is there once its epoch has begun, and stays that of the epoch; saving begins none."""
    data = Data()
    loader = data.train_dataloader()
    state = resumption_of(data)
    seen = [state.state_dict()["canary"], *(state.state_dict()["canary"] for _ in loader)]
    seen.append(state.state_dict()["canary"])
    assert (None, None) == (seen[0], seen[-1])
    assert 1 == len({canary for canary in seen[1:-1] if canary is not None})
    assert 6 == len(seen[1:-1])


def test_loaded_and_saved_again_it_is_the_same() -> None:
    """With a sampler that has to be begun for it too."""
    data = Data()
    for _ in islice(data.train_dataloader(), 2):
        pass
    saved = resumption_of(data).state_dict()
    other = Data()
    other.train_dataloader()
    resumption_of(other).load_state_dict(saved)
    assert saved == resumption_of(other).state_dict()
