"""A plain training loop: stopped in the middle of an epoch, it goes on with the exact next sample.

Run it: python examples/plain_loop.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from resumable import ResumableLoader

EPOCHS = 3


def train(checkpoint: Path, stop_after: int | None = None) -> list[int]:
    """Train to the end, or until *stop_after* samples are trained. Returns the samples' ids, in the order of training."""
    ids, inputs = torch.arange(1_000), torch.linspace(-1, 1, 1_000)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ResumableLoader(TensorDataset(ids, inputs), batch_size=32, shuffle=True, seed=0, num_workers=2)

    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    trained: list[int] = []
    for _ in range(loader.epoch, EPOCHS):  # a resumed run starts in mid-epoch
        for batch_ids, x in loader:
            if len(trained) == stop_after:
                return trained  # this batch was loaded but not trained: it comes again
            loss = (model(x[:, None]) - x[:, None] ** 2).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loader.commit()  # these samples are trained
            trained += batch_ids.tolist()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save(state, new := checkpoint.with_suffix(".new"))
            new.replace(checkpoint)  # atomic: a kill leaves the old checkpoint or the new one
    return trained


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole.pt"))
        first = train(Path(folder, "stopped.pt"), stop_after=1_320)
        second = train(Path(folder, "stopped.pt"))
    exact = first + second == whole
    print(f"{len(first)} samples, stopped, {len(second)} samples: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
