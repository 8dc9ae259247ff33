"""Before: a base class that counts, and a call that each loader method must make. After: migration_after.py."""

# megatron-core has no types
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from data_sampler import MegatronDataSampler
from megatron.core.num_microbatches_calculator import update_num_microbatches
from torch.utils.data import DataLoader, TensorDataset


class MegatronDataModule(L.LightningDataModule):
    """What a base class such as NeMo's and BioNeMo's does."""

    data_sampler: MegatronDataSampler

    def __init__(self) -> None:
        super().__init__()
        self.init_global_step = 0

    @property
    def _global_step(self) -> int:
        assert self.trainer is not None
        return self.trainer.global_step

    def update_init_global_step(self) -> None:
        self.init_global_step = self.data_sampler.init_global_step = self._global_step

    def state_dict(self) -> dict[str, Any]:
        steps = self._global_step - self.init_global_step
        return {"consumed_samples": self.data_sampler.compute_consumed_samples(steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        consumed_samples = state_dict["consumed_samples"]
        self.data_sampler.init_consumed_samples = consumed_samples
        self.data_sampler.prev_consumed_samples = consumed_samples
        update_num_microbatches(consumed_samples=consumed_samples, consistency_check=False)
        self.data_sampler.if_first_step = 1


class Numbers(MegatronDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data_sampler = MegatronDataSampler(micro_batch_size=4, global_batch_size=8)

    def train_dataloader(self) -> DataLoader[Any]:
        self.update_init_global_step()  # if forgotten, samples are trained twice, without a warning
        ids, inputs = torch.arange(512), torch.linspace(-1, 1, 512)
        return self.data_sampler.transform_dataloader(DataLoader(TensorDataset(ids, inputs)))
