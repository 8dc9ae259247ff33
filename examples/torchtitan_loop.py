"""A loop of torchtitan's kind: saved by torch.distributed.checkpoint in mid-run, it goes on at another data-parallel degree.

torchtitan's own `ParallelAwareDataloader` refuses that. The loop is that of torchtitan/train.py: one endless iterator,
several micro batches a step, and a checkpoint that is written while the training goes on.

Run it: python examples/torchtitan_loop.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp_module
import torch.multiprocessing as torch_processes

from resumable.adapters.torchtitan import ParallelAwareDataloader

dcp: Any = dcp_module
processes: Any = torch_processes
SAMPLES, LOCAL_BATCH_SIZE, GLOBAL_BATCH_SIZE, STEPS, SAVED_AFTER = 1_000, 4, 16, 100, 40


def loader_of(rank: int, degree: int) -> ParallelAwareDataloader:
    """The loader of one data-parallel rank."""
    return ParallelAwareDataloader(
        range(SAMPLES), dp_rank=rank, dp_world_size=degree, batch_size=LOCAL_BATCH_SIZE, shuffle=True, repeat=True
    )


def train(rank: int, degree: int, folder: Path, last_step: int) -> None:
    """Train to *last_step* from the checkpoint in *folder* on, where there is one; rank 0 writes down the ids."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks-{degree}", rank=rank, world_size=degree)
    loader, steps = loader_of(rank, degree), torch.tensor(0)
    states: dict[str, Any] = {"dataloader": loader, "train_state": {"step": steps}}
    if (folder / "checkpoint").exists():
        dcp.load(states, checkpoint_id=folder / "checkpoint")
    batches, trained, saving = iter(loader), list[int](), list[Any]()
    while steps < last_step:
        for _ in range(GLOBAL_BATCH_SIZE // (LOCAL_BATCH_SIZE * degree)):
            ids = next(batches)
            of_ranks = [torch.zeros_like(ids) for _ in range(degree)]
            dist.all_gather(of_ranks, ids)
            trained += torch.cat(of_ranks).tolist()
        steps += 1
        if steps == SAVED_AFTER:
            saving.append(dcp.async_save(states, checkpoint_id=folder / "checkpoint"))
    for each in saving:
        each.result()
    dist.destroy_process_group()
    if rank == 0:
        (folder / f"trained-by-{degree}").write_text(json.dumps(trained), encoding="utf-8")


def main() -> int:
    """Compare a run that goes from two ranks to one with one that is not stopped."""
    batches = iter(loader_of(0, 1))
    whole = [index for _ in range(STEPS * GLOBAL_BATCH_SIZE // LOCAL_BATCH_SIZE) for index in next(batches).tolist()]
    with tempfile.TemporaryDirectory() as name:
        folder, trained = Path(name), list[int]()
        for degree, last_step in ((2, SAVED_AFTER), (1, STEPS)):
            processes.start_processes(train, (degree, folder, last_step), nprocs=degree, start_method="fork")
            trained += json.loads((folder / f"trained-by-{degree}").read_text(encoding="utf-8"))
    exact = trained == whole
    print(f"{STEPS} steps, from 2 ranks to 1 after step {SAVED_AFTER}: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
