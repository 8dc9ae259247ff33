"""A data sampler that lacks something is refused where it is named, and the message says what is missing."""

from __future__ import annotations

from typing import Any

import lightning as L

from resumable import DataSampler, ResumptionState, resumable


class Counts:
    """It counts, but cannot be told where to begin."""

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        return steps_since_resume


class Worded(Counts):
    """Its numbers are words."""

    init_global_step = "0"
    init_consumed_samples = "0"
    prev_consumed_samples = "0"
    if_first_step = "0"


# expect mypy: "ClassWithDataSamplerOfNeMosShape" .* cannot be "NoSampler"
# expect pyright: "data_sampler" is not present
@resumable(sampler="data_sampler")
class NoSampler(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


# expect mypy: "ClassWithDataSamplerOfNeMosShape" .* cannot be "Incomplete"
# expect pyright: "Counts" is incompatible with protocol "DataSampler"
@resumable(sampler="data_sampler")
class Incomplete(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data_sampler = Counts()

    def train_dataloader(self) -> Any: ...


# expect mypy: expression has type "Counts", variable has type "DataSampler"
# expect pyright: "init_consumed_samples" is not present
sampler: DataSampler = Counts()

# expect mypy: if_first_step: expected "SupportsInt", got "str"
# expect pyright: "Worded" is incompatible with protocol "DataSampler"
ResumptionState(Worded(), None)

# expect mypy: No overload variant of "resumable" matches argument type "int"
# expect pyright: "Literal\[3\]" is not assignable to "str"
resumable(sampler=3)
