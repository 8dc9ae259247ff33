"""Loops of the shape of BioNeMo's recipes: they go on at any number of ranks and workers, from one file a rank."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import ConfigurationError, MismatchError, ResumableLoader, ResumptionWarning, StateError
from resumable.adapters.bionemo import load_dataloader, save_dataloader

SAMPLES, STEPS = 30, 40


@dataclass(frozen=True)
class DistributedConfig:
    """The two attributes of the recipes' class of this name that count here."""

    rank: int = 0
    world_size: int = 1


def session(folder: Path, ranks: int, size: int, workers: int = 0, *, until: int) -> list[int]:
    """Train from the newest step in *folder* on, on all ranks, until so many samples are; save after each step."""
    configs = [DistributedConfig(rank, ranks) for rank in range(ranks)]
    loaders: list[Any] = [
        ResumableLoader(
            range(SAMPLES),
            size,
            shuffle=True,
            seed=3,
            data_parallel_rank=config.rank,
            data_parallel_size=ranks,
            drop_last="carry",
            num_workers=workers,
        )
        for config in configs
    ]
    steps = sorted(folder.iterdir(), key=lambda path: int(path.name))
    if steps:
        for loader, config in zip(loaders, configs, strict=True):
            assert loader is load_dataloader(loader, steps[-1], config)
    count, trained = int(steps[-1].name) if steps else 0, list[int]()
    while count < until:  # the recipes' loop: passes until the steps are done
        for batches in zip(*loaders, strict=True):
            trained += chain.from_iterable(batch.tolist() for batch in batches)
            count += ranks * size
            for loader, config in zip(loaders, configs, strict=True):
                save_dataloader(loader, folder / str(count), config)
            if count >= until:
                break
    return trained


def test_each_stop_on_other_ranks_and_workers(tmp_path: Path) -> None:
    """Sessions on 1, 2 and 3 ranks in turn, within epochs and at their ends: the samples are those of one session."""

    def folder(name: str) -> Path:
        tmp_path.joinpath(name).mkdir()
        return tmp_path / name

    whole = session(folder("whole"), 1, 1, until=90)
    for stop in (6, 14, 28, 30):
        path = folder(f"stopped {stop}")
        trained = session(path, 2, 1, until=stop)
        trained += session(path, 1, 3, until=stop + 15)
        trained += session(path, 3, 2, 1 if stop == 14 else 0, until=80)
        assert whole[: len(trained)] == trained


def test_a_rank_that_has_no_file_and_files_of_more_ranks(tmp_path: Path) -> None:
    """All ranks read one file: that of rank 0, or of the lowest rank whose file is on this node."""
    for rank, done in ((1, 8), (4, 8), (7, 2)):  # that of rank 7 was left by an earlier run
        loader = ResumableLoader(range(SAMPLES), 2)
        loader.load_state_dict({"consumed_samples": done})
        save_dataloader(loader, tmp_path, DistributedConfig(rank, 8))
    assert ["dataloader_rank_1.pt", "dataloader_rank_4.pt", "dataloader_rank_7.pt"] == sorted(
        path.name for path in tmp_path.iterdir()
    )
    for rank in (0, 4, 7):
        loader = load_dataloader(ResumableLoader(range(SAMPLES), 2), tmp_path, DistributedConfig(rank, 8))
        assert 8 == loader.state.consumed_samples
    assert load_dataloader(None, tmp_path, DistributedConfig()) is None
    save_dataloader(None, tmp_path / "not made", DistributedConfig())
    assert not (tmp_path / "not made").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    """No file, a damaged one, another loader's, another order, and a rank that is no number."""
    config, loader = DistributedConfig(), ResumableLoader(range(SAMPLES), 2)
    with pytest.warns(ResumptionWarning, match="has no position"):
        assert loader is load_dataloader(loader, tmp_path, config)
    save_dataloader(loader, tmp_path, config)
    with pytest.raises(MismatchError, match="another kind"):
        load_dataloader(ResumableLoader(range(SAMPLES), 2, shuffle=True), tmp_path, config)
    file = tmp_path / "dataloader_rank_0.pt"
    torch.save({"_snapshot": {}, "_num_yielded": 3, "num_workers": 0, "num_ranks": 1}, file)
    with pytest.raises(StateError, match="another kind"):
        load_dataloader(loader, tmp_path, config)
    for damaged in (file.read_bytes()[:-40], b""):
        file.write_bytes(damaged)
        with pytest.raises(StateError, match="cannot be read"):
            load_dataloader(loader, tmp_path, config)
    torch.save([1], file)
    with pytest.raises(StateError, match="holds no loader's position"):
        load_dataloader(loader, tmp_path, config)
    unknown: Any = object()
    with pytest.raises(ConfigurationError, match=r"dist_config\.world_size"):
        save_dataloader(loader, tmp_path, unknown)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under torch 2.13
def test_a_loader_of_torchdata_as_in_the_recipes(tmp_path: Path) -> None:
    """It goes on with the saved ranks and workers, and with others begins anew, but not in silence."""
    stateful: Any = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def build() -> Any:
        return stateful(list(range(SAMPLES)), batch_size=2)

    loader = build()
    batches = iter(loader)
    next(batches)
    save_dataloader(loader, tmp_path, DistributedConfig())
    assert [2, 3] == next(iter(load_dataloader(build(), tmp_path, DistributedConfig()))).tolist()
    with pytest.warns(ResumptionWarning, match="begins at its first sample again"):
        anew = load_dataloader(build(), tmp_path, DistributedConfig(0, 2))
    assert [0, 1] == next(iter(anew)).tolist()
    with pytest.warns(ResumptionWarning, match="has no position"):
        load_dataloader(build(), tmp_path, DistributedConfig(1, 2))
    with pytest.raises(StateError, match="another kind"):
        load_dataloader(ResumableLoader(range(SAMPLES), 2), tmp_path, DistributedConfig())
