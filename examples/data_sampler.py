"""A small version of NeMo's MegatronDataSampler, with the same members. The two migration examples use it."""

# megatron-core has no types
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

with warnings.catch_warnings():  # that Transformer Engine and Apex are not installed
    warnings.simplefilter("ignore")
    from megatron.core.num_microbatches_calculator import get_num_microbatches


class GlobalBatches:
    """Batches in the dataset's order, from *consumed_samples* on."""

    def __init__(self, total_samples: int, consumed_samples: int, global_batch_size: int) -> None:
        self.total_samples = total_samples
        self.consumed_samples = consumed_samples
        self.global_batch_size = global_batch_size

    def __len__(self) -> int:
        return self.total_samples // self.global_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.consumed_samples, len(self) * self.global_batch_size, self.global_batch_size):
            yield list(range(start, start + self.global_batch_size))


class MegatronDataSampler:
    """Counts what the microbatch calculator says, and makes loaders that begin at this count."""

    dataloader_type = "batch"  # a batch of the loader is a global batch

    def __init__(self, micro_batch_size: int, global_batch_size: int) -> None:
        self.micro_batch_size = micro_batch_size
        self.global_batch_size = global_batch_size
        self.init_global_step = 0
        self.init_consumed_samples = 0
        self.prev_consumed_samples = 0
        self.if_first_step = 0

    def transform_dataloader(self, dataloader: DataLoader[Any]) -> DataLoader[Any]:
        dataset: Any = dataloader.dataset
        batches = GlobalBatches(len(dataset), self.init_consumed_samples, self.global_batch_size)
        return DataLoader(dataset, batch_sampler=batches)

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        samples: int = steps_since_resume * self.micro_batch_size * get_num_microbatches()
        return self.init_consumed_samples + samples
