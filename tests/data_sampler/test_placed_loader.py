"""How many batches an epoch has, and its rest from any offset, by samplers that tell their length in different ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resumable.data_sampler.placed_loader import SeekableSampler


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

    def place(self, sampler: SeekableSampler, /) -> None:
        """Nobody asks."""

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
