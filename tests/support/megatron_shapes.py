"""Batch samplers with a count, in the shapes of NeMo's, Megatron-LM's and Megatron-Bridge's, and of others like them.

    InOrder              `range(consumed_samples, total_samples)`: its count is the offset in every epoch
    InOrderModulo        the same of the count's remainder by the dataset's length
    DealtBatches         a shuffle of each rank's own part, for each epoch; whole global batches
    ShuffledBatches      one shuffle of all for each epoch, dealt out; an epoch may be cut, short or padded at its end
    CountsEpochs         its order follows its own attribute `epoch`, which each pass moves
    TellsEpochs          the same, by `set_epoch`

Sources of the behaviour: NeMo 2.4.0, lightning/data.py and nlp/data/language_modeling/megatron/
megatron_batch_samplers.py; Megatron-Bridge, data/samplers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch


def shuffle(length: int, seed: int) -> list[int]:
    """The order of an epoch."""
    stream = torch.Generator().manual_seed(seed)
    return cast("list[int]", torch.randperm(length, generator=stream).tolist())


@dataclass
class InOrder:
    """What all of them know. A batch is *steps* micro batches on each of *ranks*."""

    total_samples: int
    consumed_samples: int = 0
    micro_batch_size: int = 2
    ranks: int = 1
    rank: int = 0
    steps: int = 1
    drop_last: bool = True

    @property
    def micro_batch_times_data_parallel_size(self) -> int:
        """Samples of a round."""
        return self.micro_batch_size * self.ranks

    @property
    def size(self) -> int:
        """Samples of a batch, over all ranks."""
        return self.micro_batch_times_data_parallel_size * self.steps

    def cut(self, order: list[int]) -> Iterator[list[int]]:
        """This rank's part of *order*, batch by batch; the count moves with them."""
        for start in range(0, len(order), self.size):
            batch = order[start : start + self.size]
            if len(batch) == self.size or not self.drop_last:
                self.consumed_samples += len(batch)
                yield batch[self.rank :: self.ranks]

    def __len__(self) -> int:
        left = max(0, self.total_samples - self.consumed_samples)
        return left // self.size if self.drop_last else -(-left // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        return self.cut(list(range(self.consumed_samples, self.total_samples)))


class InOrderModulo(InOrder):
    """A count of several epochs is one of the last of them."""

    def __len__(self) -> int:
        return (self.total_samples - self.consumed_samples % self.total_samples) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        return self.cut(list(range(self.consumed_samples % self.total_samples, self.total_samples)))


@dataclass
class DealtBatches(InOrder):
    """As NeMo's `MegatronPretrainingRandomBatchSampler`. An epoch leaves out `last_batch_size`."""

    seed: int = 3

    def __post_init__(self) -> None:
        self.last_batch_size = self.total_samples % self.size

    def __len__(self) -> int:
        epoch = self.total_samples - self.last_batch_size
        return (epoch - self.consumed_samples % epoch) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        epoch, offset = divmod(self.consumed_samples, self.total_samples - self.last_batch_size)
        assert not offset % self.micro_batch_times_data_parallel_size
        part = self.total_samples // self.micro_batch_times_data_parallel_size * self.micro_batch_size
        order = shuffle(part, self.seed + epoch)[offset // self.ranks :]
        size = self.micro_batch_size * self.steps
        for start in range(0, len(order) - size + 1, size):
            self.consumed_samples += self.size
            yield [self.rank * part + index for index in order[start : start + size]]


@dataclass
class ShuffledBatches(InOrder):
    """As Megatron-Bridge's `MegatronPretrainingBatchSampler`; its length is optional here."""

    shuffle: bool = True
    seed: int = 3
    pad_samples_to_global_batch_size: bool = False

    @property
    def epoch_size(self) -> int:
        """What an epoch adds to the count."""
        whole = self.total_samples - self.total_samples % self.size
        if self.drop_last:
            return whole
        return (
            -(-self.total_samples // self.size) * self.size
            if self.pad_samples_to_global_batch_size
            else self.total_samples
        )

    def __len__(self) -> int:
        left = self.epoch_size - self.consumed_samples % self.epoch_size
        return (left + self.size - 1) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        epoch, offset = divmod(self.consumed_samples, self.epoch_size)
        order = shuffle(self.total_samples, self.seed + epoch) if self.shuffle else list(range(self.total_samples))
        padded = [-1] * (self.epoch_size - self.total_samples)
        return self.cut((order + padded)[offset:])


@dataclass
class CountsEpochs(InOrder):
    """Its count is the offset; it counts its passes by itself."""

    epoch: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.cut(shuffle(self.total_samples, self.epoch)[self.consumed_samples :])
        self.epoch += 1
        self.consumed_samples = 0


class TellsEpochs(CountsEpochs):
    """It is told its epochs."""

    def set_epoch(self, epoch: int) -> None:
        """Before each pass."""
        self.epoch = epoch
