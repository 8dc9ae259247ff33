"""A decorated class is the class that it was, for type checkers too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type

from resumable import Position, ResumptionState, Verdict, is_resumable, resumable, resumption_of

T = TypeVar("T")


@resumable
class Bare(L.LightningDataModule):
    def __init__(self, folder: str, *, batch_size: int = 32) -> None:
        super().__init__()
        self.folder = folder
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(), batch_size=self.batch_size, shuffle=True)

    def lines(self) -> list[str]:
        return [self.folder] * resumption_of(self).consumed_samples


@resumable(seed=1, reseed=True, pass_epoch=True)
class Seeded(L.LightningDataModule):
    size: int = 3

    def train_dataloader(self) -> list[DataLoader[Any]]:
        return []


@resumable(on_mismatch="warn", seed=None)
class Policied(Bare):
    def state_dict(self) -> dict[str, Any]:
        return {"mine": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mine = state_dict["mine"]


@resumable()
class OfAKind(L.LightningDataModule, Generic[T]):
    def __init__(self, item: T) -> None:
        super().__init__()
        self.item = item

    def train_dataloader(self) -> DataLoader[T]:
        raise NotImplementedError


@resumable
class Abstract(L.LightningDataModule):
    @abstractmethod
    def train_dataloader(self) -> DataLoader[Any]: ...


class Concrete(Abstract):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset())


class OwnTrainer:
    global_step = 0


@resumable
class WithoutLightning:
    trainer: OwnTrainer | None = None

    def train_dataloader(self) -> list[int]:
        return [1]


class KnowsItsTrainer:
    @property
    def trainer(self) -> L.Trainer:
        raise RuntimeError("not attached")

    def train_dataloader(self, shuffle: bool = True) -> dict[str, DataLoader[Any]]:
        return {}


DecoratedByCall = resumable(KnowsItsTrainer)


@resumable
class Untyped(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return None


module = Bare("data", batch_size=4)
assert_type(module, Bare)
assert_type(module.folder, str)
assert_type(module.lines(), list[str])
assert_type(module.train_dataloader(), DataLoader[tuple[Tensor, ...]])
assert_type(Seeded().size, int)
assert_type(OfAKind(b"x").item, bytes)
assert_type(Policied("data").batch_size, int)
lightning: L.LightningDataModule = module

state = resumption_of(module)
assert_type(state, ResumptionState)
assert_type(state.consumed_samples, int)
assert_type(state.position, Position)
assert_type(state.position.offset, int)
assert_type(state.verdict, Verdict)
assert_type(state.state_dict(), dict[str, Any])
assert_type(resumption_of(Concrete()), ResumptionState)
assert_type(resumption_of(WithoutLightning()), ResumptionState)
assert_type(resumption_of(Untyped()), ResumptionState)
assert_type(DecoratedByCall(), KnowsItsTrainer)


def look(thing: object, several: Mapping[str, object]) -> int:
    if is_resumable(thing):
        return resumption_of(thing).consumed_samples
    return sum(resumption_of(one).consumed_samples for one in several.values() if is_resumable(one))


def keep(data: L.LightningDataModule) -> ResumptionState | None:
    if is_resumable(data):
        data.setup("fit")  # it is still a LightningDataModule
        return resumption_of(data)
    data.setup("fit")
    return None


def fit(trainer: L.Trainer, model: L.LightningModule, data: Bare) -> None:
    trainer.fit(model, data)
    trainer.fit(model, datamodule=Concrete())
