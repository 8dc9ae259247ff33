"""Hugging Face's Trainer: stopped in the middle of an epoch, it goes on with the exact next sample.

Run it: python examples/hf_trainer.py
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from resumable import ResumableLoader
from resumable.adapters.transformers import Ranks, prepare


class Numbers(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"ids": torch.tensor(index), "x": torch.tensor([index / 100])}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained: list[int] = []

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.trained += ids.tolist()
        return {"loss": (self.layer(x) - x**2).square().mean()}


class MyTrainer(Trainer):
    def get_train_dataloader(self) -> Any:
        loader = ResumableLoader(Numbers(), batch_size=8, shuffle=True, seed=0, ranks=Ranks(self), reseed=True)
        return prepare(self, loader)


class Stop(TrainerCallback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = control.should_save = state.global_step == self.step


def train(folder: str, *, stop_after: int | None = None, resumes: bool = False) -> list[int]:
    """Train to the end, or until *stop_after* steps are trained. Returns the samples' ids, in the order of training."""
    model = Model()
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = MyTrainer(model=model, args=arguments, train_dataset=Numbers(), callbacks=[Stop(stop_after)])
    trainer.train(resume_from_checkpoint=resumes or None)
    return model.trained


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(f"{folder}/whole")
        first = train(f"{folder}/stopped", stop_after=10)
        second = train(f"{folder}/stopped", resumes=True)
    exact = first + second == whole
    print(f"{len(first)} samples, stopped, {len(second)} samples: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
