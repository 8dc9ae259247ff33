"""Megatron's "cyclic" order follows from the ranks and the micro batch: another one is never gone on with in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch.utils.data import DataLoader

from resumable import MismatchError, ResumptionWarning, resumable, resumption_of
from tests.support import nemo_shape
from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import numbers
from tests.support.sampler_runs import Scenario, resumed

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)


class RanksAtRandom(nemo_shape.BatchesAtRandom):
    """What the first of *ranks* gets: each shuffles a part of its own, or deals out one shuffle of all."""

    consumed_samples: int

    def __init__(self, ranks: int, data_sharding: bool | None, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.micro_batch_times_data_parallel_size = self.micro_batch_size * ranks
        self.seed = seed
        if data_sharding is not None:  # NeMo's has no such attribute
            self.data_sharding = data_sharding

    def __len__(self) -> int:
        return (self._active - self.consumed_samples % self._active) // self.micro_batch_times_data_parallel_size

    def __iter__(self) -> Iterator[list[int]]:
        consumed = self.consumed_samples
        epoch, offset = divmod(consumed, self._active)
        size, ranks = self.micro_batch_size, self.micro_batch_times_data_parallel_size // self.micro_batch_size
        assert offset % self.micro_batch_times_data_parallel_size == 0
        stream = torch.Generator().manual_seed(self.seed + epoch)
        if getattr(self, "data_sharding", True):
            part = self.total_samples // self.micro_batch_times_data_parallel_size * size
            mine = cast("list[int]", torch.randperm(part, generator=stream).tolist())[offset // ranks :]
        else:
            whole = self.total_samples // size * size
            mine = cast("list[int]", torch.randperm(whole, generator=stream).tolist())[offset::ranks]
        for start in range(0, len(mine) - size + 1, size):
            self.consumed_samples += self.micro_batch_times_data_parallel_size
            yield mine[start : start + size]

    @property
    def _active(self) -> int:
        return self.total_samples - self.total_samples % self.micro_batch_times_data_parallel_size


class Sampler(nemo_shape.MegatronDataSampler):
    """A data sampler of the first of *ranks*."""

    ranks = 1
    data_sharding: bool | None = None
    seed = 0

    def transform_dataloader(self, dataloader: Any, consumed_samples: int = 0) -> DataLoader[Any]:
        batches = RanksAtRandom(
            self.ranks,
            self.data_sharding,
            self.seed,
            total_samples=len(dataloader.dataset),
            consumed_samples=self.init_consumed_samples,
            micro_batch_size=self.micro_batch_size,
            global_batch_size=self.global_batch_size,
        )
        return DataLoader(dataloader.dataset, batch_sampler=batches)


@dataclass(frozen=True)
class Ranks(Scenario):
    """A scenario whose data is shuffled for so many ranks."""

    ranks: int = 1
    data_sharding: bool | None = None
    seed: int = 0

    def sampler(self) -> Any:
        sampler = Sampler(
            seq_len=1,
            micro_batch_size=self.micro_batch_size,
            global_batch_size=self.global_batch_size,
            dataloader_type="cyclic",
            output_log=False,
        )
        sampler.ranks, sampler.data_sharding, sampler.seed = self.ranks, self.data_sharding, self.seed
        return sampler


ONE = Ranks(samples=64, micro_batch_size=4, global_batch_size=4, kind="cyclic", transforms=frozenset({"datamodule"}))
CHANGES = {
    "ranks": (ONE, replace(ONE, ranks=2)),
    "ranks_and_micro_batch": (replace(ONE, ranks=2), replace(ONE, micro_batch_size=2, global_batch_size=4, ranks=4)),
    "micro_batch_that_leaves_a_rest": (
        replace(ONE, samples=70),
        replace(ONE, samples=70, micro_batch_size=8, global_batch_size=8),
    ),
    "data_sharding": (replace(ONE, ranks=2), replace(ONE, ranks=2, data_sharding=False)),
    "seed": (ONE, replace(ONE, seed=1)),
}
by_change = pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
SAME = {
    "micro_batch_without_a_rest": (ONE, replace(ONE, micro_batch_size=8, global_batch_size=8)),
    "ranks_that_share_one_shuffle": (replace(ONE, data_sharding=False), replace(ONE, data_sharding=False, ranks=2)),
}


class Steps:
    """A trainer that counts steps, and no more."""

    def __init__(self, global_step: int = 0) -> None:
        self.global_step = global_step


def datamodule(scenario: Ranks, on_mismatch: Any = "error", global_step: int = 0) -> Any:
    """A decorated datamodule in a loop without Lightning, *global_step* steps trained."""
    sampler = scenario.sampler()
    sampler.connect(None)

    @resumable(sampler="data_sampler", on_mismatch=on_mismatch)
    class Data:
        def __init__(self) -> None:
            self.trainer = Steps(global_step)
            self.data_sampler = sampler

        def train_dataloader(self) -> Any:
            loader = DataLoader(cast("Any", numbers(scenario.samples)))
            return self.data_sampler.transform_dataloader(loader)

    return Data()


def saved_by(scenario: Ranks) -> dict[str, Any]:
    """A state behind 16 samples."""
    data = datamodule(scenario)
    data.load_state_dict({"consumed_samples": 16})
    data.train_dataloader()
    return cast("dict[str, Any]", data.state_dict())


@by_change
def test_another_cyclic_order_is_refused(before: Ranks, after: Ranks) -> None:
    """With both orders in the message; what was loaded stands."""
    data = datamodule(after)
    data.load_state_dict(saved_by(before))
    with pytest.raises(MismatchError, match="not exact"):
        data.train_dataloader()
    assert 16 == data.state_dict()["consumed_samples"]


@by_change
@pytest.mark.parametrize("on_mismatch", ["warn", "adopt"])
def test_another_cyclic_order_is_warned_of(before: Ranks, after: Ranks, on_mismatch: str) -> None:
    """The order is the sampler's own, so there is nothing to adopt; the verdict says so."""
    data = datamodule(after, on_mismatch)
    data.load_state_dict(saved_by(before))
    with pytest.warns(ResumptionWarning, match="not exact"):
        data.train_dataloader()
    assert "inexact" == resumption_of(data).verdict.outcome


@pytest.mark.parametrize(("before", "after"), SAME.values(), ids=SAME)
def test_an_order_that_stays_is_gone_on_with(before: Ranks, after: Ranks) -> None:
    """What another micro batch or other ranks leave as it was."""
    data = datamodule(after)
    data.load_state_dict(saved_by(before))
    data.train_dataloader()
    assert "exact" == resumption_of(data).verdict.outcome


def test_the_message_names_both_orders_and_what_to_do() -> None:
    """Two ranks shuffle a half each."""
    data = datamodule(replace(ONE, ranks=2))
    data.load_state_dict(saved_by(ONE))
    with pytest.raises(MismatchError) as error:
        data.train_dataloader()
    assert (
        "The order is of another kind.\n"
        "  saved:   'cyclic, 1 x 64 shuffled'\n"
        "  current: 'cyclic, 2 x 32 shuffled'\n"
        '  Megatron shuffles "cyclic" data by data_parallel_size and micro_batch_size: go on with the saved ones.'
    ) in str(error.value)


def test_no_batch_begins_there() -> None:
    """Megatron's sampler would fail by an assertion in its first batch."""
    data = datamodule(replace(ONE, ranks=2))
    data.load_state_dict({"consumed_samples": 12})
    with pytest.raises(MismatchError, match="No batch of this cyclic order begins where the saved run stands"):
        data.train_dataloader()


@pytest.mark.parametrize("state", [{"consumed_samples": 16}, "cyclic"], ids=["bare", "without_numbers"])
def test_older_states_are_taken_as_they_are(state: Any) -> None:
    """They do not tell what the order depended on."""
    if state == "cyclic":
        state = saved_by(ONE)
        state["order"][0] = "cyclic"
    data = datamodule(replace(ONE, ranks=2))
    data.load_state_dict(state)
    data.train_dataloader()
    assert "exact" == resumption_of(data).verdict.outcome


@by_change
def test_lightning_refuses_as_well(before: Ranks, after: Ranks) -> None:
    """The verdict comes before the first batch."""
    with pytest.raises(MismatchError, match="not exact"):
        resumed(before, saved_after_step(4), then=after)


@pytest.mark.parametrize("on_mismatch", ["warn", "adopt"])
def test_lightning_warns_as_well(on_mismatch: str) -> None:
    """Also where a saved order should be adopted."""
    before, after = CHANGES["micro_batch_that_leaves_a_rest"]
    with pytest.warns(ResumptionWarning, match="not exact"):
        resumed(replace(before, data=on_mismatch), saved_after_step(4), then=replace(after, data=on_mismatch))
