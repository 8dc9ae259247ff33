"""After: the decorator. Old checkpoints load here, and those that are saved here load in migration_before.py."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from data_sampler import MegatronDataSampler
from torch.utils.data import DataLoader, TensorDataset

from resumable import resumable


@resumable(sampler="data_sampler")
class Numbers(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data_sampler = MegatronDataSampler(micro_batch_size=4, global_batch_size=8)

    def train_dataloader(self) -> DataLoader[Any]:
        ids, inputs = torch.arange(512), torch.linspace(-1, 1, 512)
        return self.data_sampler.transform_dataloader(DataLoader(TensorDataset(ids, inputs)))
