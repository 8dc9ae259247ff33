"""Sessions of a Hugging Face Trainer, stopped after a step and gone on with from a checkpoint.

Run(accumulation=2).session(folder, stop=3)           three optimizer steps, then a checkpoint
Run(accumulation=2).session(folder, resumes=True)     from the last checkpoint to the end
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from resumable import ResumableLoader
from resumable.adapters.transformers import Ranks, prepare

EPOCHS = 3


class Numbers(Dataset[dict[str, Any]]):
    """Samples that tell their index."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"ids": torch.tensor(index), "x": torch.tensor([float(index) / self.length])}


class Model(torch.nn.Module):
    """A layer that notes what it is given, batch by batch."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.dropout = torch.nn.Dropout(dropout)
        self.window: list[int] = []

    def forward(self, ids: Any, x: Any) -> dict[str, Any]:
        if self.training:
            self.window += ids.tolist()
        return {"loss": (self.layer(self.dropout(x)) - x**2).square().mean()}


@dataclass
class Trained:
    """What a session has trained: the ids of each optimizer step, and the weights and the Trainer's state at its end."""

    steps: list[list[int]] = field(default_factory=list[list[int]])
    weights: list[float] = field(default_factory=list[float])
    epochs: list[float] = field(default_factory=list[float])
    gradients: list[float] = field(default_factory=list[float])
    trainer: Any = None


class Note(TrainerCallback):
    """Notes each step, and stops the training, or an epoch, after one."""

    def __init__(self, model: Model, trained: Trained, stop: int | None, stop_epoch: int | None) -> None:
        self.model, self.trained, self.stop, self.stop_epoch = model, trained, stop, stop_epoch

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trained.gradients += [float(each.grad.sum()) for each in self.model.parameters() if each.grad is not None]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trained.steps.append(self.model.window)
        self.trained.epochs.append(state.epoch)
        self.model.window = []
        if state.global_step == self.stop:
            control.should_training_stop = control.should_save = True
        if state.global_step == self.stop_epoch:
            control.should_epoch_stop = True


@dataclass(frozen=True)
class Run:
    """A run of a Trainer whose loader is prepared."""

    samples: int = 11
    batch_size: int = 2
    accumulation: int = 1
    dropout: float = 0.0
    stop_epoch: int | None = None
    prepares: bool = True
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])

    def trainer(self, folder: str, trained: Trained, stop: int | None = None, base: type[Any] = Trainer) -> Any:
        """A Trainer that notes what it trains in *trained*."""
        run = self

        class Prepared(base):  # type: ignore[misc]
            def get_train_dataloader(self) -> Any:
                if not run.prepares:
                    return cast("Any", super().get_train_dataloader())
                options: dict[str, Any] = {"shuffle": True, "seed": 3, "ranks": Ranks(self), **run.options}
                return prepare(self, ResumableLoader(Numbers(run.samples), run.batch_size, **options))

        given: dict[str, Any] = {"num_train_epochs": EPOCHS, "save_strategy": "no", **self.arguments}
        torch.manual_seed(0)
        model = Model(self.dropout)
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            learning_rate=0.1,
            **given,
        )
        note = Note(model, trained, stop, self.stop_epoch)
        return Prepared(model=model, args=arguments, train_dataset=Numbers(self.samples), callbacks=[note])

    def session(
        self,
        folder: str,
        *,
        stop: int | None = None,
        resumes: bool | str = False,
        change: Callable[[Any], None] | None = None,
    ) -> Trained:
        """Train until *stop* steps are trained, or to the end."""
        trained = Trained()
        trained.trainer = trainer = self.trainer(folder, trained, stop)
        trainer.remove_callback(PrinterCallback)
        if change is not None:
            change(trainer)
        trainer.train(resume_from_checkpoint=resumes or None)
        trained.weights = [float(each) for each in trainer.model.state_dict().values()]
        return trained
