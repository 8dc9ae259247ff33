"""Loops with Lightning Fabric, stopped anywhere: what they train is what the uninterrupted loop trains."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest
import torch

pytest.importorskip("lightning")

from lightning.fabric import Fabric

from resumable import ConfigurationError, ResumableLoader
from resumable.adapters.fabric import Ranks, prepare
from tests.support.ranks import in_ranks

SAMPLES, EPOCHS = 12, 3


def session(path: str, *, size: int = 2, stop: int | None = None, sets_up: bool = False, devices: int = 1) -> list[int]:
    """Train from the checkpoint *path* on, where there is one, until *stop* batches have come: the ids over all ranks."""
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    numbers: Any = range(SAMPLES)
    loader: Any = ResumableLoader(numbers, size, shuffle=True, seed=3, ranks=Ranks(fabric))
    batches = cast("Any", fabric.setup_dataloaders(loader) if sets_up else prepare(fabric, loader))
    assert sets_up or batches is loader
    if Path(path).exists():
        fabric.load(path, {"loader": loader})
    trained: list[int] = []
    count = 0
    for _ in range(loader.epoch, EPOCHS):
        for ids in batches:
            everyones: list[Any] = [ids.tolist()] * devices
            if devices > 1:
                torch.distributed.all_gather_object(everyones, ids.tolist())
            trained += chain.from_iterable(everyones)
            count += 1
            if count == stop:
                fabric.save(path, {"loader": loader})
                fabric.barrier()
                return trained
    return trained


@pytest.mark.parametrize("sets_up", [False, True])
def test_each_stop_and_two_processes_and_then_one(sets_up: bool, tmp_path: Path) -> None:
    """By `prepare` and by Fabric's default `setup_dataloaders`, on one process, on two, and from two to one."""
    whole = session(str(tmp_path / "none"))
    for stop in range(1, 18):
        path = str(tmp_path / f"{stop}.pt")
        assert whole == session(path, stop=stop, sets_up=sets_up) + session(path, size=3, sets_up=sets_up)
    for stop in (1, 3, 6):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/two.pt"
            first = in_ranks(2, partial(session, path, stop=stop, sets_up=sets_up, devices=2))
            assert first is not None
            again = in_ranks(2, partial(session, path, sets_up=sets_up, devices=2))
            assert whole == first + (again or [])
            assert whole == first + session(path, sets_up=sets_up)


def test_what_is_refused() -> None:
    """Another rank's part, a loader that is prepared, and one that is not resumable."""
    fabric, numbers = Fabric(accelerator="cpu", devices=1), torch.arange(SAMPLES)
    loader: Any = prepare(fabric, ResumableLoader(numbers, 2))
    with pytest.raises(ConfigurationError, match="prepared already"):
        prepare(fabric, loader)
    with pytest.raises(ConfigurationError, match="disagree"):
        prepare(fabric, ResumableLoader(numbers, 2, data_parallel_rank=1, data_parallel_size=2))
    with pytest.raises(ConfigurationError, match="Only a resumable loader"):
        prepare(fabric, [])
