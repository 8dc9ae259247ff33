"""ResumableLoader is a DataLoader of its dataset's items, and takes DataLoader's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from typing_extensions import assert_type

from resumable import (
    AllGather,
    BatchSchedule,
    ConstantBatchSize,
    LinearRampup,
    Order,
    Ranks,
    ResumableLoader,
    ResumptionState,
    SampleIndex,
    Sequential,
    Shuffled,
    StepSchedule,
    sample_rng,
    sample_seed,
)
from resumable.adapters import device_mesh, distributed, lightning, megatron


@dataclass(frozen=True)
class Told:
    data_parallel_rank: int
    data_parallel_size: int


def alone(record: bytes) -> list[bytes]:
    return [record]


class Words(Dataset[str]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> str:
        return str(index)


class Noisy(Dataset[float]):
    """Draws from a generator that follows the position."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: SampleIndex) -> float:
        assert_type(index.epoch, int)
        assert_type(index.draw, int)
        number: int = index
        return number + sample_rng(index, index.epoch, 7, draw=index.draw).random()


def upper(words: list[str]) -> str:
    return "".join(words).upper()


def start_worker(number: int) -> None:
    torch.manual_seed(number)


class EvenFirst:
    """An order without a base class."""

    def __len__(self) -> int:
        return 10

    def indices(self, epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        places = np.arange(start, stop, dtype=np.int64)
        return places * 2 % 10 + places // 5


@dataclass(frozen=True)
class Rotated:
    """An order that depends on the epoch."""

    n: int
    kind: str = "rotated"

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        return (np.arange(start, stop, dtype=np.int64) + epoch) % self.n


class Doubling:
    """A schedule without a base class."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        return 4 if consumed_samples < 100 else 8

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        for _ in range(steps):
            consumed += self.batch_size_at(consumed)
        return consumed

    def steps_between(self, consumed: int, later: int, /) -> int:
        steps = 0
        while self.samples_after(steps + 1, consumed) <= later:
            steps += 1
        return steps


schedules: list[BatchSchedule | None] = [
    None,
    ConstantBatchSize(8),
    LinearRampup(start=4, end=16, increment=4, rampup_samples=100),
    StepSchedule.parse("0:8 1K:16"),
    Doubling(),
]
orders: list[Order] = [Sequential(10), Shuffled(10), Shuffled(10, seed=3), EvenFirst(), Rotated(10)]
assert_type(Shuffled(10).indices(0, 0, 5), NDArray[np.int64])
assert_type(Sequential(10).indices(epoch=0, start=0, stop=5), NDArray[np.int64])

loader = ResumableLoader(
    Words(),
    batch_size=4,
    shuffle=True,
    seed=0,
    drop_last=False,
    on_mismatch="adopt",
    num_workers=2,
    collate_fn=upper,
    pin_memory=False,
    timeout=10,
    worker_init_fn=start_worker,
    multiprocessing_context="fork",
    generator=torch.Generator(),
    prefetch_factor=4,
    persistent_workers=True,
    in_order=True,
)
plain: DataLoader[Any] = loader
assert_type(loader.epoch, int)
ResumableLoader(Words(), batch_size=4, seed=1, reseed=True)
ResumableLoader(Noisy(), batch_size=4, pass_epoch=True)
assert_type(sample_rng("strength", epoch=0), np.random.Generator)
assert_type(sample_seed(("shard-1", 7), 0, seed=2, draw=1), int)
assert_type(loader.state, ResumptionState)
assert_type(loader.state_dict(), dict[str, Any])
assert_type(len(loader), int)
loader.load_state_dict({"consumed_samples": 4})
loader.state.commit()

for order in orders:
    ResumableLoader(Words(), batch_size=4, order=order)
for schedule in schedules:
    sharded = ResumableLoader(
        Words(),
        batch_size=2,
        schedule=schedule,
        data_parallel_rank=1,
        data_parallel_size=2,
        drop_last="carry",
        decrease_batch_size_if_needed=False,
    )
    assert_type(sharded.num_microbatches, int)
    assert_type(sharded.padded_samples, int)
ranks: list[Ranks] = [
    Told(0, 2),
    distributed.Ranks(),
    device_mesh.Ranks(init_device_mesh("cpu", (2,), mesh_dim_names=("dp",)), "dp"),
    megatron.Ranks(),
    lightning.Ranks(L.Trainer()),
]
gathers: list[AllGather] = [alone, distributed.AllGather()]
for each in ranks:
    for gather in gathers:
        ResumableLoader(Words(), batch_size=2, ranks=each, agreement=gather)
ResumptionState(agreement=alone)
ResumableLoader(Words(), 4, True)
ResumableLoader(Words(), batch_size=None)
ResumableLoader(TensorDataset(torch.arange(3)))
part = ResumableLoader(random_split(Words(), [6, 4])[0], batch_size=2, shuffle=True)
numbers = ResumableLoader(range(1_000), batch_size=32, shuffle=True, seed=0, num_workers=2)

for epoch in range(loader.epoch, 3):
    for batch in loader:
        steps = [epoch, batch]

endless = loader.forever()
steps = [next(endless)]
endless.close()

validation = loader.windows(3)
steps = [list(validation), len(validation), validation.state.consumed_samples]


def save(model: torch.nn.Module, loader: ResumableLoader[Any]) -> dict[str, Any]:
    return {"model": model.state_dict(), "data": loader.state_dict()}


def train(loader: ResumableLoader[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros(())
    for inputs, targets in loader:
        total += (inputs - targets).square().mean()
    return total


train(ResumableLoader(TensorDataset(torch.zeros(3), torch.zeros(3)), batch_size=2))
typed: ResumableLoader[list[str]] = ResumableLoader(Words(), batch_size=2)
for sentence in typed:
    assert_type(sentence, list[str])
ResumableLoader(["a", "b"], batch_size=2)


class Sentences(ResumableLoader[list[str]]):
    """A loader whose batches have a type."""

    def longest(self) -> int:
        return max(len(sentence) for sentence in self)


assert_type(Sentences(Words(), batch_size=2).longest(), int)
