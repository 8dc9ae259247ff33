"""How many batches an epoch has, and its rest from any offset, by samplers that tell their length in different ways."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from resumable.data_sampler.placed_loader import SeekableSampler
from resumable.data_sampler.sampler_hooks import TransformHook


class MegatronLM:
    """Batches in order. Megatron-LM's `__len__` tells samples, NeMo's batches; some count one that is dropped."""

    def __init__(self, total_samples: int, size: int, length: int, *, drop_last: bool) -> None:
        self.total_samples = total_samples
        self.consumed_samples = 0
        self.micro_batch_size = size
        self.drop_last = drop_last
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.consumed_samples, self.total_samples, self.micro_batch_size):
            stop = start + self.micro_batch_size
            if stop <= self.total_samples or not self.drop_last:
                yield list(range(start, min(stop, self.total_samples)))


class At:
    """Where the next pass begins."""

    offset = 0
    placed = 0

    def place(self, sampler: SeekableSampler, /) -> None:
        """One more."""
        self.placed += 1

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """In the first epoch."""
        return 0, self.offset


@pytest.mark.parametrize("offset", [0, 2, 4, 7, 18, 20, 22])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("tells", ["samples", "batches"])
@pytest.mark.parametrize("total_samples", [20, 22])
def test_the_length_is_that_of_an_epochs_batches(total_samples: int, tells: str, drop_last: bool, offset: int) -> None:
    """From the epoch's start; the rest is all that the sampler gives from an offset on."""
    length = total_samples if tells == "samples" else -(-total_samples // 4)
    sampler, at = MegatronLM(total_samples, 4, length, drop_last=drop_last), At()
    own = SeekableSampler(sampler, at, samples_per_batch=4, is_cyclic=False)
    assert len(list(sampler)) == len(own)
    at.offset = sampler.consumed_samples = offset
    assert list(sampler) == list(own)


def test_a_loader_is_placed_once_by_each_run_that_takes_it() -> None:
    """Made in a datamodule and returned by it, it is met twice; kept for another run, it begins where that one is."""

    def transform(loader: Any) -> Any:
        return DataLoader(loader.dataset, batch_sampler=MegatronLM(20, 4, 5, drop_last=True))

    sampler = SimpleNamespace(
        dataloader_type="batch", global_batch_size=4, init_consumed_samples=8, transform_dataloader=transform
    )
    first, second = At(), At()
    second.offset = 12
    loaders = TransformHook(sampler, first, lambda loader: loader)
    with loaders.building():
        made = sampler.transform_dataloader(DataLoader(range(20)))  # type: ignore[arg-type]  # a list will do
    assert (loaders.take(made), 1) == (made, first.placed)
    assert [0, 4, 8, 12, 16] == [batch[0] for batch in made.batch_sampler]
    again = TransformHook(sampler, second, lambda loader: loader)
    assert (again.take(made), 1, 1) == (made, first.placed, second.placed)
    assert [12, 16] == [batch[0] for batch in made.batch_sampler]
