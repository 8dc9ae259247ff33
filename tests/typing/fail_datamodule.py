"""What the decorator refuses, and what it says: an `expect` comment speaks of the lines down to the next empty one."""

from __future__ import annotations

from typing import Any

import lightning as L

from resumable import is_resumable, resumable, resumption_of


# expect mypy: Value of type variable "ClassWithTrainDataloaderAndTrainer" of "resumable" cannot be "NoTrainer"
# expect pyright: (?s)"NoTrainer".*"trainer" is not present
@resumable
class NoTrainer:
    def train_dataloader(self) -> Any: ...


# expect mypy: Value of type variable "ClassWithTrainDataloaderAndTrainer" of "resumable" cannot be "NoLoader"
# expect pyright: (?s)"NoLoader".*"train_dataloader" is not present
@resumable
class NoLoader:
    trainer: L.Trainer | None = None


# expect mypy: Value of type variable "ClassWithTrainDataloaderAndTrainer" of function cannot be "SeededNoLoader"
# expect pyright: (?s)"SeededNoLoader".*"train_dataloader" is not present
@resumable(seed=1)
class SeededNoLoader:
    trainer: L.Trainer | None = None


# expect mypy: Value of type variable "ClassWithTrainDataloaderAndTrainer" of "resumable" cannot be "BlindTrainer"
# expect pyright: (?s)"BlindTrainer".*"trainer".*"str"
@resumable
class BlindTrainer:
    trainer: str = "I count nothing"

    def train_dataloader(self) -> Any: ...


# expect mypy: on_mismatch: Literal\['error', 'warn', 'adopt'\]
# expect pyright: (?s)Literal\['typo'\].*"OnMismatch"
@resumable(on_mismatch="typo")
class Typo(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


# expect mypy: seed: int \| None
# expect pyright: (?s)"seed" of type "int \| None"
@resumable(seed="1")
class TextSeed(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


# expect mypy: reseed: bool
# expect pyright: (?s)"reseed" of type "bool"
@resumable(reseed="yes")
class TextReseed(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


# expect mypy: No overload variant of "resumable" matches argument type
# expect pyright: (?s)"Literal\[1\]" is not assignable to type "type\[ClassWithTrainDataloaderAndTrainer
@resumable(1)
class Positional(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


# expect mypy: Unexpected keyword argument "sed" for overloaded function "resumable"
# expect pyright: No overloads for "resumable"
@resumable(sed=1)
class Misspelt(L.LightningDataModule):
    def train_dataloader(self) -> Any: ...


@resumable
class Data(L.LightningDataModule):
    folder: str = "data"

    def train_dataloader(self) -> Any: ...


# expect mypy: "Data" has no attribute "foldr"
# expect pyright: "foldr" for class "Data"
_ = Data().foldr

# expect mypy: incompatible type "int"; expected "SupportsTraining"
# expect pyright: (?s)"Literal\[3\]".*"SupportsTraining"
resumption_of(3)

# expect mypy: incompatible type "type\[Data\]"; expected "SupportsTraining"
# expect pyright: (?s)"type\[Data\]".*"SupportsTraining"
resumption_of(Data)

# expect mypy: "ResumptionState" has no attribute "consumed"
# expect pyright: "consumed" for class "ResumptionState"
_ = resumption_of(Data()).consumed


def look(thing: object) -> int:
    if is_resumable(thing):
        return 0

    # expect mypy: incompatible type "object"; expected "SupportsTraining"
    # expect pyright: (?s)"object".*"SupportsTraining"
    return resumption_of(thing).consumed_samples
