"""A loop of Lightning Fabric: stopped in the middle of an epoch, it goes on with the exact next sample.

Run it: python examples/fabric_loop.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lightning.fabric import Fabric

from resumable import ResumableLoader
from resumable.adapters.fabric import Ranks, prepare

EPOCHS = 3


def train(checkpoint: Path, stop_after: int | None = None) -> list[int]:
    """Train to the end, or until *stop_after* batches have come. Returns the samples' ids, in the order of training."""
    fabric = Fabric(accelerator="cpu", devices=1)
    loader = prepare(fabric, ResumableLoader(range(1_000), 32, shuffle=True, seed=0, ranks=Ranks(fabric)))
    if checkpoint.exists():
        fabric.load(checkpoint, {"loader": loader})
    trained, batches = list[int](), 0
    for _ in range(loader.epoch, EPOCHS):
        for ids in loader:
            trained += ids.tolist()
            loader.commit()  # these samples are trained
            batches += 1
            if batches == stop_after:
                fabric.save(checkpoint, {"loader": loader})
                return trained
    return trained


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole.pt"))
        first = train(Path(folder, "stopped.pt"), stop_after=41)
        second = train(Path(folder, "stopped.pt"))
    exact = first + second == whole
    print(f"{len(first)} samples, stopped, {len(second)} samples: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
