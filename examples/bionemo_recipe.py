"""A loop of the shape of BioNeMo's recipes: stopped on 2 ranks with workers, it goes on with the exact next sample on 1.

The recipes' own functions of these names begin the data anew where the number of ranks or workers has changed.

Run it: python examples/bionemo_recipe.py
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from resumable import ResumableLoader
from resumable.adapters.bionemo import load_dataloader, save_dataloader

TRAINED = 2_400


@dataclass(frozen=True)
class DistributedConfig:
    """The recipes' class of this name; here the ranks run one after the other in one process."""

    rank: int
    world_size: int


def train(folder: Path, ranks: int, num_workers: int, stop_after: int = TRAINED) -> list[int]:
    """Train until *stop_after* samples are trained, and save. Returns the samples' ids."""
    configs = [DistributedConfig(rank, ranks) for rank in range(ranks)]
    loaders = [
        ResumableLoader(
            range(1_000),
            batch_size=16 // ranks,
            shuffle=True,
            seed=42,
            num_workers=num_workers,
            data_parallel_rank=config.rank,
            data_parallel_size=config.world_size,
        )
        for config in configs
    ]
    if folder.exists():
        for loader, config in zip(loaders, configs, strict=True):
            load_dataloader(loader, folder, config)
    trained = list[int]()
    while True:
        for batches in zip(*loaders, strict=True):
            trained += chain.from_iterable(batch.tolist() for batch in batches)
            if loaders[0].state.consumed_samples >= stop_after:
                for loader, config in zip(loaders, configs, strict=True):
                    save_dataloader(loader, folder, config)
                return trained


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole"), ranks=2, num_workers=0)
        first = train(Path(folder, "stopped"), ranks=2, num_workers=1, stop_after=1_300)
        second = train(Path(folder, "stopped"), ranks=1, num_workers=0)
    exact = first + second == whole
    print(f"{len(first)} samples on 2 ranks, stopped, {len(second)} on 1: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
