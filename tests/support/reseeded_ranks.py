"""A loop on several ranks whose samples and steps draw, and what each micro batch of such a run drew.

    torchrun ... tests/support/reseeded_ranks.py FOLDER      goes on from FOLDER/checkpoint.pt, if it is there

Each rank adds a line of JSON to a file of its own for each micro batch: its epoch, its samples and what its step drew. With
the micro batch size of one rank, that is the same on any number of them. Global batches are the same too.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import dropout
from torch.nn.parallel import DistributedDataParallel

from resumable import ConstantBatchSize, ResumableLoader
from resumable.adapters.distributed import Ranks
from tests.support.random_samples import Augmented, disturb, drawn_now

__all__ = ["BATCHES", "EPOCHS", "GLOBAL", "MICRO", "SAMPLES", "drawn_in", "keep", "loop", "net", "note", "weights_in"]

SAMPLES, MICRO, GLOBAL, EPOCHS = 16, 2, 8, 2
BATCHES = EPOCHS * SAMPLES // MICRO


def net() -> torch.nn.Module:
    """A net with dropout, in double precision: sums in another order differ in the last bits alone."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    return torch.nn.Sequential(*layers).double()


def note(folder: Path, epoch: int, batch: torch.Tensor) -> None:
    """Write down what this micro batch and its step draw."""
    drew: list[Any] = [epoch, batch.tolist(), dropout(torch.ones(8)).tolist(), drawn_now()]
    with (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(drew) + "\n")


def drawn_in(folder: Path) -> set[str]:
    """What the micro batches drew, on all ranks in all sessions; once where they were trained again after a kill."""
    return {line for path in folder.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()}


def weights_in(folder: Path) -> torch.Tensor:
    """The weights that were kept."""
    weights: torch.Tensor = torch.load(folder / "weights.pt")
    return weights


def keep(folder: Path, model: torch.nn.Module) -> None:
    """Write down the weights at the end."""
    torch.save(torch.cat([each.detach().flatten() for each in model.parameters()]), folder / "weights.pt")


def loop(folder: Path) -> None:
    """Train to the end."""
    dist.init_process_group("gloo")
    disturb()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = ResumableLoader(
        Augmented(SAMPLES),
        MICRO,
        shuffle=True,
        seed=3,
        schedule=ConstantBatchSize(GLOBAL),
        ranks=Ranks(),
        reseed=True,
    )
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    disturb()
    parallel, size, taken = DistributedDataParallel(model), dist.get_world_size(), 0
    for epoch in range(loader.epoch, EPOCHS):
        for batch in loader:
            taken += 1
            is_last = taken % loader.num_microbatches == 0
            parallel.require_backward_grad_sync = is_last
            (parallel(batch).sum() * size).backward()
            note(folder, epoch, batch)
            if not is_last:
                continue
            optimizer.step()
            optimizer.zero_grad()
            loader.commit()
            if dist.get_rank() == 0:
                torch.save({name: part.state_dict() for name, part in parts.items()}, folder / "new.pt")
                (folder / "new.pt").replace(checkpoint)
    if dist.get_rank() == 0:
        keep(folder, model)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    loop(Path(sys.argv[1]))
