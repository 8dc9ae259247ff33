"""Ray Train: two CPU workers fail in the middle of an epoch, Ray starts them again, and they go on with the exact next sample.

Run it: python examples/ray_train.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch.utils.data import TensorDataset

from resumable import ResumableLoader
from resumable.adapters.ray import Ranks, prepare

SAMPLES, EPOCHS, WORKERS = 40, 2, 2


def train_loop(config: dict[str, Any]) -> None:
    """Train on one worker; fail once, after the step *fails_at*."""
    context = ray.train.get_context()
    ids, inputs = torch.arange(SAMPLES), torch.linspace(-1, 1, SAMPLES)
    dataset = TensorDataset(ids, inputs)
    loader = prepare(context, ResumableLoader(dataset, 4, shuffle=True, seed=0, ranks=Ranks(context)))
    model = prepare_model(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]
    rank = context.get_world_rank()
    for _ in range(loader.epoch, EPOCHS):
        for batch_ids, x in loader:
            loss = (model(x[:, None]) - x[:, None] ** 2).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loader.commit()
            step += 1
            with Path(config["notes"], f"{rank}.txt").open("a") as notes:
                notes.write(f"{step}: {batch_ids.tolist()}\n")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            with tempfile.TemporaryDirectory() as folder:
                if rank == 0:
                    torch.save({**state, "step": step}, Path(folder, "state.pt"))
                ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None)
            if checkpoint is None and step == config["fails_at"]:
                raise RuntimeError("the machine is gone")


def train(folder: Path, fails_at: int) -> list[str]:
    """What the workers have trained, step by step."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"notes": str(notes), "fails_at": fails_at},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(storage_path=str(folder), name="run", failure_config=FailureConfig(max_failures=1)),
    )
    trainer.fit()
    return [Path(notes, f"{rank}.txt").read_text() for rank in range(WORKERS)]


def main() -> int:
    """Compare a run that fails and goes on with one that does not fail."""
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole = train(Path(folder, "whole"), fails_at=0)
            failed = train(Path(folder, "failed"), fails_at=3)
    finally:
        ray.shutdown()
    exact = whole == failed and all(len(each.splitlines()) == 10 for each in whole)
    print(f"{WORKERS} workers, failed after 3 of 10 steps: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
