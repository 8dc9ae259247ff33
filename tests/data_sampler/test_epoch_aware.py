"""Batch samplers whose order follows the epoch: each pass is the one that the sampler itself would give next."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from resumable import ConfigurationError, ResumptionWarning
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins, seekable
from tests.support.megatron_shapes import (
    CountsEpochs,
    DealtBatches,
    InOrder,
    InOrderModulo,
    ShuffledBatches,
    TellsEpochs,
    shuffle,
)


class At:
    """Where the next pass begins."""

    epoch = offset = 0

    def place(self, sampler: SeekableSampler, /) -> None:
        """Nothing to note."""

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """As told."""
        return self.epoch, self.offset


SHAPES = st.sampled_from([InOrder, InOrderModulo, DealtBatches, ShuffledBatches, CountsEpochs, TellsEpochs])


@st.composite
def samplers(draw: st.DrawFn) -> Any:
    """A sampler at its first sample, with at least one batch."""
    micro, ranks, steps = (draw(st.integers(1, 3)) for _ in range(3))
    options: dict[str, Any] = {"micro_batch_size": micro, "ranks": ranks, "steps": steps}
    options["rank"] = draw(st.integers(0, ranks - 1))
    kind: Any = draw(SHAPES)
    if kind is ShuffledBatches:
        options["drop_last"] = draw(st.booleans())
        options["pad_samples_to_global_batch_size"] = not options["drop_last"] and draw(st.booleans())
        options["shuffle"] = draw(st.booleans())
    total = draw(st.integers(micro * ranks * steps, 60))
    return kind(total_samples=total, **options)


def placed(sampler: Any, at: At, kind: str = "batch") -> SeekableSampler:
    """*sampler* in a loader, made seekable."""
    numbers: Any = range(sampler.total_samples)
    loader: DataLoader[Any] = DataLoader(numbers, batch_sampler=sampler)
    data_sampler = SimpleNamespace(dataloader_type=kind, global_batch_size=sampler.size)
    found = seekable(loader, data_sampler, at)
    assert isinstance(found, SeekableSampler)
    return found


def epochs_of(sampler: Any, epochs: int) -> Iterator[list[list[int]]]:
    """What an undecorated run gets, pass after pass."""
    for epoch in range(epochs):
        if isinstance(sampler, TellsEpochs):
            sampler.set_epoch(epoch)
        if type(sampler) in (InOrder, InOrderModulo):
            sampler.consumed_samples = 0
        yield list(sampler)


@given(sampler=samplers(), cut=st.integers(0, 8), kind=st.sampled_from(["batch", "single", "cyclic"]))
def test_each_pass_is_the_samplers_own(sampler: Any, cut: int, kind: str) -> None:
    """Of any epoch and from any batch, though nothing of the passes before was drawn; the original stays as it was."""
    if kind != "batch":
        sampler = replace(sampler, steps=1)
    expected = list(epochs_of(copy.copy(sampler), 3))
    at, before = At(), cast("dict[str, Any]", {**vars(sampler)})
    seekable_one = placed(sampler, at, kind)
    for epoch, batches in enumerate(expected):
        at.epoch, at.offset = epoch, 0
        assert batches == list(seekable_one)
        at.offset = min(cut, len(batches)) * sampler.size
        assert batches[cut:] == list(seekable_one)
        fresh = placed(copy.copy(sampler), at, kind)  # as a resumed process has it
        assert (batches[cut:], len(batches)) == (list(fresh), len(fresh))
    assert before == vars(sampler)


@pytest.mark.parametrize("total", [32, 34, 35])
def test_the_epochs_of_an_unknown_stream(total: int) -> None:
    """A "cyclic" sampler of one's own may count an epoch's rest too."""

    class Stream(InOrder):
        def __iter__(self) -> Iterator[list[int]]:
            epoch, offset = divmod(self.consumed_samples, total)
            return self.cut(shuffle(total, epoch)[offset:])

    at = At()
    sampler = placed(Stream(total, micro_batch_size=8), at, "cyclic")
    for at.epoch in range(3):
        order = shuffle(total, at.epoch)
        assert [order[start : start + 8] for start in range(0, 32, 8)] == list(sampler)


def test_epochs_that_cannot_be_told() -> None:
    """A count that means something else is refused, not guessed."""

    class Strange(InOrder):
        def __iter__(self) -> Iterator[list[int]]:
            epoch, offset = divmod(self.consumed_samples, 22)
            return self.cut(shuffle(34, epoch)[offset:])

    at = At()
    sampler = placed(Strange(34, micro_batch_size=8), at)
    assert 4 == len(list(sampler))
    at.epoch = 1
    with pytest.raises(ConfigurationError, match=r"epochs cannot be told(?s:.*)tried epochs of: *\[32, 34, 40\]"):
        iter(sampler)


IDENTITIES = {
    "in order": (InOrder(20), "sequential", None, False),
    "dealt": (DealtBatches(20, ranks=2), "shuffled by its batch sampler, 2 x 10", 3, True),
    "one shuffle": (ShuffledBatches(20, ranks=2), "shuffled by its batch sampler", 3, False),
    "no shuffle": (ShuffledBatches(20, ranks=2, rank=1, shuffle=False), "sequential", None, False),
    "padded": (InOrder(3, micro_batch_size=4, drop_last=False), "sequential", None, False),
}


@pytest.mark.parametrize(("sampler", "kind", "seed", "is_dealt"), IDENTITIES.values(), ids=IDENTITIES)
def test_what_the_order_depends_on(sampler: Any, kind: str, seed: int | None, *, is_dealt: bool) -> None:
    """A shuffle of each rank's part depends on ranks and micro batch; one of all does not, nor does the dataset's order."""
    own = placed(sampler, At())
    assert (kind, seed, is_dealt) == (own.identity.kind, own.identity.seed, own.is_dealt)
    check_begins(own, own.samples_per_round)


def test_a_sampler_that_draws_from_the_global_stream() -> None:
    """It is warned of, and the draws that find out leave the stream as it was."""
    import torch

    class Random(InOrder):
        def __iter__(self) -> Iterator[list[int]]:
            return self.cut(cast("list[int]", torch.randperm(self.total_samples).tolist()))

    before = torch.get_rng_state()
    for kind, expected in (("batch", "shuffled"), ("single", "shuffled"), ("cyclic", "cyclic")):
        with pytest.warns(ResumptionWarning, match=r"draws other batches each time(?s:.*)Random"):
            assert placed(Random(1000), At(), kind).identity.kind.startswith(expected)
    assert before.equal(torch.get_rng_state())


@dataclass
class BuiltAtItsCount(InOrder):
    """Its batches begin where it was built."""

    def __post_init__(self) -> None:
        self.order = list(range(self.consumed_samples, self.total_samples))

    def __iter__(self) -> Iterator[list[int]]:
        return self.cut(self.order)


class ReadOnly(InOrder):
    """Its count cannot be set."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "consumed_samples" and name in vars(self):
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("kind", ["batch", "single", "cyclic"])
@given(micro=st.integers(1, 3), steps=st.integers(1, 3), batches=st.integers(2, 9))
def test_a_sampler_that_no_count_moves(kind: str, micro: int, steps: int, batches: int) -> None:
    """It is refused before the first step: a resumed run would train its first samples again. One batch is all of it."""
    shape: dict[str, Any] = {"micro_batch_size": micro, "steps": steps if kind == "batch" else 1}
    total = micro * steps * batches
    with pytest.raises(ConfigurationError, match=r"does not begin at its consumed_samples(?s:.*)BuiltAtItsCount"):
        _ = placed(BuiltAtItsCount(total, **shape), At(), kind).identity
    assert (
        "sequential" == placed(BuiltAtItsCount(micro * steps, micro_batch_size=micro, steps=steps), At()).identity.kind
    )
    with pytest.raises(ConfigurationError, match=r"consumed_samples of a batch sampler cannot be set(?s:.*)ReadOnly"):
        placed(ReadOnly(total, **shape), At(), kind)


class Slotted:
    """No attributes but these, and no length that it knows."""

    __slots__ = ("consumed_samples", "micro_batch_size", "total_samples")
    size = 4

    def __init__(self, total_samples: int) -> None:
        self.total_samples, self.consumed_samples, self.micro_batch_size = total_samples, 0, 4

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.consumed_samples, self.total_samples, 4):
            yield list(range(start, start + 4))


def test_a_sampler_without_a_dict_or_a_length() -> None:
    """It needs neither, in any epoch."""
    at = At()
    own = placed(Slotted(20), at)
    for at.epoch in (0, 1):
        assert (5, [0, 4, 8, 12, 16]) == (len(own), [batch[0] for batch in own])
