"""Data samplers of NeMo's shape fit, whatever kinds of numbers they hold; the decorated class is what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
from typing_extensions import assert_type

from resumable import DataSampler, LinearRampup, MicrobatchCalculator, ResumptionState, StepSchedule, resumable

if TYPE_CHECKING:
    from torch import Tensor


class MegatronDataSampler:
    """Plain attributes, one of them a tensor, as NeMo's has them."""

    def __init__(self, global_batch_size: int) -> None:
        self.global_batch_size = global_batch_size
        self.init_global_step = 0
        self.init_consumed_samples: int = 0
        self.prev_consumed_samples: int | Tensor = 0
        self.if_first_step = 0

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        return self.init_consumed_samples + steps_since_resume * self.global_batch_size


class Calculator:
    is_initialized = True
    current_global_batch_size = 8

    def update(self, consumed_samples: int, /) -> None: ...


class Trainer:
    global_step = 3


@resumable(sampler="data_sampler")
class Data(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data_sampler = MegatronDataSampler(8)

    def train_dataloader(self) -> list[int]:
        return []


@resumable(sampler="samples", schedule=LinearRampup(8, 32, 8, 1000), calculator=Calculator(), seed=1)
class ByAnotherName(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.samples = MegatronDataSampler(8)

    def train_dataloader(self) -> list[int]:
        return []


@resumable(sampler=None, schedule=None)
class Neither(L.LightningDataModule):
    def train_dataloader(self) -> list[int]:
        return []


class OldCode(Data):
    """Code that was written for the mixin."""

    def val_dataloader(self) -> Any:
        getattr(self, "update_init_global_step")()  # noqa: B009
        return []


assert_type(Data(), Data)
assert_type(Data().data_sampler.global_batch_size, int)
assert_type(ByAnotherName().train_dataloader(), list[int])

sampler: DataSampler = MegatronDataSampler(8)
calculator: MicrobatchCalculator = Calculator()
state = ResumptionState(sampler, Trainer())
state = ResumptionState(MegatronDataSampler(8), None, schedule=StepSchedule(((0, 8),)), calculator=calculator)
assert_type(state.consumed_samples, int)
