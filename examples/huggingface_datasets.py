"""Datasets of Hugging Face: a map-style one in a plain loop, and a stream of files that two workers read under Lightning.

Both are stopped in the middle of an epoch. The map-style one refuses to go on over other data of the same length.

Run it: python examples/huggingface_datasets.py
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import datasets as hf
import lightning as L
import torch
from torch.utils.data import DataLoader

from resumable import MismatchError, ResumableLoader, resumable

datasets: Any = hf
datasets.disable_progress_bars()
SAMPLES, SHARDS, EPOCHS = 240, 4, 2


def write_files(folder: Path, first: int = 0) -> list[str]:
    """Files of JSON lines with the ids from *first* on."""
    folder.mkdir()
    for shard in range(SHARDS):
        rows = range(first + shard, first + SAMPLES, SHARDS)
        (folder / f"{shard}.jsonl").write_text(
            "".join(json.dumps({"id": row}) + "\n" for row in rows), encoding="utf-8"
        )
    return [str(folder / f"{shard}.jsonl") for shard in range(SHARDS)]


def open_files(files: list[str], *, streaming: bool) -> Any:
    """The dataset of *files*."""
    return datasets.load_dataset(
        "json", data_files=files, split="train", streaming=streaming, cache_dir=f"{Path(files[0]).parent}/cache"
    )


def loop(dataset: Any, saved: dict[str, Any] | None = None, stop_after: int | None = None) -> tuple[list[int], Any]:
    """Train in a loop, from *saved* on: the ids as trained, and the state where the loop has stopped."""
    loader: ResumableLoader[Any] = ResumableLoader(dataset, 8, shuffle=True)
    if saved is not None:
        loader.load_state_dict(saved)
    trained = list[int]()
    for number, batch in enumerate(loader.forever(), start=loader.state.consumed_samples // 8 + 1):
        trained += batch["id"].tolist()
        if number == (stop_after or EPOCHS * SAMPLES // 8):
            break
    return trained, loader.state_dict()


@resumable
class Data(L.LightningDataModule):
    def __init__(self, files: list[str]) -> None:
        super().__init__()
        self.files = files

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(open_files(self.files, streaming=True), batch_size=8, num_workers=2)


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained = list[int]()

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.trained += batch["id"].tolist()
        return self.weight * batch["id"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(files: list[str], checkpoint: Path, max_steps: int = -1) -> list[int]:
    """Train with Lightning, from *checkpoint* on where there is one: the ids as trained."""
    model = Model()
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=max_steps, max_epochs=EPOCHS, enable_checkpointing=False, **quiet)
    trainer.fit(model, Data(files), ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=False)
    trainer.save_checkpoint(checkpoint)
    return model.trained


def main() -> int:
    """Compare both runs with ones that are not stopped."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, others = write_files(folder / "data"), write_files(folder / "others", first=1)
        dataset = open_files(files, streaming=False)
        whole, _ = loop(dataset)
        first, saved = loop(dataset, stop_after=44)
        second, _ = loop(dataset, saved)
        exact = first + second == whole
        try:
            loop(open_files(others, streaming=False), saved)
            exact = False
        except MismatchError:
            print("other data of the same length: refused")
        streamed = fit(files, folder / "whole.ckpt")
        parts = [ids for max_steps in (14, 44, -1) for ids in fit(files, folder / "stopped.ckpt", max_steps)]
        exact = exact and parts == streamed and len(streamed) == EPOCHS * SAMPLES
    print(f"{len(first)} samples, stopped, {len(second)} samples, and a stream: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
