"""Small real LightningModules whose weights depend on every sample and on their order, and which remember both.

What a module remembers is saved in Lightning's checkpoints beside the weights: the history of a resumed run is then
that of its checkpoint, followed by what the later sessions trained. What a dead session trained behind its checkpoint
is gone with its weights, as it has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, cast

import lightning as L
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

Ids: TypeAlias = Any
"""The ids of a batch: a tuple of ints, nested in tuples where several loaders give one batch together."""


@dataclass(frozen=True)
class Step:
    """One completed optimizer step: its epoch, the number of steps before it and its (batch_idx, ids) pairs."""

    epoch: int
    global_step: int
    learning_rate: float
    batches: tuple[tuple[int, Ids], ...]


@dataclass
class History:
    """What went into the weights: the optimizer steps, and for each epoch what its loaders said of their length."""

    steps: list[Step] = field(default_factory=list[Step])
    lengths: dict[int, tuple[object, ...]] = field(default_factory=dict[int, "tuple[object, ...]"])

    def dump(self) -> dict[str, Any]:
        """As plain values, which load under torch's `weights_only`."""
        return asdict(self)

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> History:
        """The inverse of `dump`."""
        return cls([Step(**step) for step in dumped["steps"]], dict(dumped["lengths"]))


class Recording(L.LightningModule):
    """A linear model in float64, trained by SGD with momentum; it has no random layer, so runs are equal to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.history = History()
        self.reached: Callable[[str], None] = lambda place: None  # a session sets it, to end there
        self._window: list[tuple[int, Ids]] = []

    def loss(self, batch: object) -> Tensor:
        """The mean squared error over all samples of *batch*; a sample is its id."""
        ids = torch.cat([tensor.reshape(-1) for tensor in _tensors(batch)]).double()
        features = torch.sin(ids[:, None] * torch.arange(1, 5))
        return ((features @ self.weight - torch.cos(ids)) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.reached("training_step")
        self.history.lengths[self.trainer.current_epoch] = _lengths(self.trainer)
        self._window.append((batch_idx, ids_of(batch)))
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.reached("validation_step")
        self.log("validation_loss", self.loss(batch))

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self._window = self._window[-1:]  # Lightning clears what no step has used behind the loss of the next batch

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        steps_before, rate = self.trainer.global_step, float(self.trainer.optimizers[0].param_groups[0]["lr"])
        super().optimizer_step(*args, **kwargs)
        self.note_step(steps_before, rate)

    def note_step(self, steps_before: int, rate: float) -> None:
        """The batches since the last step went into the weights."""
        self.history.steps.append(Step(self.trainer.current_epoch, steps_before, rate, tuple(self._window)))
        self._window = []

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.05, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history.dump()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = History.load(checkpoint["history"])


class StepPlan(Recording):
    """One learning-rate schedule that moves with each step, and one that moves with each epoch, on two optimizers' worth."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.05, momentum=0.9)
        each_step = CosineAnnealingLR(optimizer, T_max=40)
        each_epoch = StepLR(optimizer, step_size=1, gamma=0.7)
        return [optimizer], [
            {"scheduler": each_step, "interval": "step"},
            {"scheduler": each_epoch, "interval": "epoch"},
        ]


class Plateau(Recording):
    """The learning rate falls where the validation loss does not."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "validation_loss"}}


class Budgeted(Recording):
    """Asks for `estimated_stepping_batches`, for which Lightning builds the train loaders before it restores the loops."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, max_lr=0.1, total_steps=steps), "interval": "step"}]


class TwoOptimizers(Recording):
    """Manual optimization; each batch steps two optimizers, so `global_step` counts two."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        steps_before = self.trainer.global_step
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        first, second = cast("list[Optimizer]", self.optimizers())
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss + (self.bias * self.weight.sum() - 1).square().sum())
        first.step()
        second.step()
        self.note_step(steps_before, float(first.param_groups[0]["lr"]))

    def configure_optimizers(self) -> Any:
        return [SGD([self.weight], lr=0.05, momentum=0.9), torch.optim.Adam([self.bias], lr=0.01)]


class EndsEpochsEarly(Recording):
    """Leaves each epoch before its fourth batch, by Lightning's documented return value of -1."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


def ids_of(batch: Any) -> Ids:
    """The ids in *batch*, which may be a tensor, or a list, dict or None where several loaders give it."""
    if isinstance(batch, Tensor):
        return tuple(cast("list[int]", batch.reshape(-1).tolist()))
    if isinstance(batch, Mapping):
        return tuple((key, ids_of(value)) for key, value in cast("Mapping[str, Any]", batch).items())
    if isinstance(batch, (list, tuple)):
        return tuple(ids_of(value) for value in cast("Iterable[Any]", batch))
    return batch


def flat(ids: Ids) -> list[int]:
    """The ids alone, of all loaders."""
    if isinstance(ids, tuple):
        return [number for entry in cast("tuple[object, ...]", ids) for number in flat(entry)]
    return [ids] if isinstance(ids, int) else []


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, (Tensor, int)):
        return [torch.as_tensor(batch)]
    if isinstance(batch, Mapping):
        return _tensors(list(cast("Mapping[str, Any]", batch).values()))
    if isinstance(batch, (list, tuple)):
        return [tensor for entry in cast("Iterable[Any]", batch) for tensor in _tensors(entry)]
    return []


def _lengths(trainer: L.Trainer) -> tuple[object, ...]:
    """What Lightning, its progress bars and the user see: batches of the epoch, and the length of each loader."""
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    return trainer.num_training_batches, *map(sized_len, loaders)
