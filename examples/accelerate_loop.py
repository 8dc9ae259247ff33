"""A loop of accelerate: stopped in the middle of an epoch and of a window, it goes on with the exact next sample.

Run it: python examples/accelerate_loop.py
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch.utils.data import TensorDataset

from resumable import ResumableLoader
from resumable.adapters.accelerate import Ranks, prepare

EPOCHS, ACCUMULATION = 3, 2


def train(folder: str, *, resumes: bool = False, stop_after: int | None = None) -> list[list[int]]:
    """Train to the end, or until *stop_after* batches have come. Returns the ids of each optimizer step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dataset = TensorDataset(torch.arange(1_000), torch.linspace(-1, 1, 1_000))
    loader = prepare(accelerator, ResumableLoader(dataset, 32, shuffle=True, seed=0, ranks=Ranks(accelerator)))
    model, optimizer = cast("Any", accelerator.prepare(model, optimizer))
    if resumes:
        accelerator.load_state(folder)
    steps, window, batches = list[list[int]](), list[int](), 0
    for _ in range(loader.epoch, EPOCHS):
        for ids, x in loader:
            with accelerator.accumulate(model):
                accelerator.backward((model(x[:, None]) - x[:, None] ** 2).square().mean())
                optimizer.step()
                optimizer.zero_grad()
            window += ids.tolist()
            if accelerator.sync_gradients:
                steps.append(window)
                window = []
            batches += 1
            if batches == stop_after:
                accelerator.save_state(folder)
                return steps
    return steps


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(folder)
        first = train(folder, stop_after=41)
        second = train(folder, resumes=True)
    exact = first + second == whole
    print(f"{len(first)} steps, stopped, {len(second)} steps: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
