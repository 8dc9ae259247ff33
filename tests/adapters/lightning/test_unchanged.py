"""A decorated datamodule trains as it did without the decorator, as long as nothing is resumed.

An order of the dataset's own, or of the user's own sampler that needs no random stream, gives the same run to the bit.
A shuffled one gives another order, in batches of the same sizes, and everything that Lightning counts stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import CombinedLoader
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import (
    Numbers,
    PlainNumbers,
    Run,
    Scenario,
    check,
    numbers,
    resumed,
    train,
    uninterrupted,
)
from tests.support.recording import EndsEpochsEarly, Recording, StepPlan, TwoOptimizers

if TYPE_CHECKING:
    import lightning as L

OPTIONS: list[dict[str, Any]] = [
    {"max_epochs": 3},
    {"max_epochs": -1, "max_steps": 16},
    {"limit_train_batches": 4},
    {"limit_train_batches": 0.5},
    {"limit_train_batches": 0.9, "accumulate_grad_batches": 2},
    {"limit_train_batches": 100},
    {"accumulate_grad_batches": 4},
    {"limit_val_batches": 1.0, "val_check_interval": 0.5, "num_sanity_val_steps": 2},
    {"reload_dataloaders_every_n_epochs": 1},
    {"overfit_batches": 2},
    {"overfit_batches": 0.5},
    {"fast_dev_run": 3},
]
MODULES = [Recording, StepPlan, TwoOptimizers, EndsEpochsEarly]


def shape(run: Run) -> tuple[object, ...]:
    """All of a run but which samples came when."""
    sizes = [[len(ids) for _, ids in step.batches] for step in run.steps]
    counts = [(step.epoch, step.global_step, [idx for idx, _ in step.batches]) for step in run.steps]
    return run.current_epoch, run.global_step, run.lengths, sizes, counts


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("drop_last", [False, True])
def test_options_of_the_trainer_mean_what_they_meant(options: dict[str, Any], drop_last: bool) -> None:
    """In order: the same run. Shuffled: the same counts."""
    ordered = Scenario(shuffle=False, drop_last=drop_last, trainer=options)
    assert uninterrupted(replace(ordered, data=PlainNumbers)) == uninterrupted(ordered)
    shuffled = replace(ordered, shuffle=True)
    assert shape(uninterrupted(replace(shuffled, data=PlainNumbers))) == shape(uninterrupted(shuffled))


@pytest.mark.parametrize("module", MODULES)
def test_modules_train_as_without_the_decorator(module: type[Recording]) -> None:
    """However the module steps."""
    scenario = Scenario(shuffle=False, module=module)
    assert uninterrupted(replace(scenario, data=PlainNumbers)) == uninterrupted(scenario)


def combined(mode: str, other: int, s: Scenario) -> CombinedLoader:
    """The 22 samples beside so many *other* ones."""
    return CombinedLoader([s.loader(), s.loader(numbers(100, 100 + other))], mode)  # type: ignore[arg-type]  # its four literals


LOADERS: dict[str, Callable[[Scenario], Any]] = {
    "list": lambda s: [s.loader(), s.loader(numbers(100, 109))],
    "dict": lambda s: {"a": s.loader(), "b": s.loader(numbers(100, 131))},
    **{
        f"{mode} of 22 and {other}": partial(combined, mode, other)
        for mode in ("min_size", "max_size", "max_size_cycle")
        for other in (9, 22, 31)
    },
    "single samples": lambda s: s.loader(numbers(6), batch_size=None, drop_last=False),
    "workers": lambda s: s.loader(num_workers=2),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 3}, {"limit_train_batches": 0.5}], ids=str)
def test_loaders_train_as_without_the_decorator(kind: str, options: dict[str, Any]) -> None:
    """One loader or several, in order: the same run, but that a shorter loader is cycled as before."""
    scenario = Scenario(shuffle=False, loaders=LOADERS[kind], trainer=options)
    assert uninterrupted(replace(scenario, data=PlainNumbers)) == uninterrupted(scenario)


@pytest.mark.parametrize("cls", [PlainNumbers, Numbers])
def test_a_shuffling_that_is_turned_off_is_said(cls: Callable[[Scenario], L.LightningDataModule]) -> None:
    """With `overfit_batches`, batches come in the dataset's order; a loader that shuffles is told, as by plain Lightning."""
    scenario = Scenario(data=cls, trainer={"overfit_batches": 2})
    with pytest.warns(UserWarning, match="You requested to overfit but enabled train dataloader shuffling"):
        shuffled = uninterrupted(scenario)
    assert shuffled == uninterrupted(replace(scenario, shuffle=False))


def as_tensor(number: Any) -> torch.Tensor:
    """The number, or the text of one."""
    return number if isinstance(number, torch.Tensor) else torch.tensor([int(number)])


class OfNumbers(Recording):
    """One whose batches are numbers, or texts of digits."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(tree_map(as_tensor, batch), batch_idx)


COLLECTIONS: dict[str, Any] = {
    "numbers": [1, 2, 3],
    "texts": ("1", "2", "3"),
    "numbers by name": {"a": [1, 2], "b": [3, 4, 5]},
    "lists of numbers": [[1, 2, 3], [4]],
    "numbers beside a loader": {"a": [1, 2], "b": DataLoader(numbers(6), batch_size=2)},
}


@pytest.mark.filterwarnings("ignore:This resume reads the stream again::")
@pytest.mark.parametrize("kind", COLLECTIONS)
def test_a_collection_of_numbers_is_one_loader(kind: str) -> None:
    """Lightning iterates a collection that holds numbers or texts alone: each is a batch, trained once an epoch, also cut."""
    scenario = Scenario(shuffle=False, loaders=lambda _: COLLECTIONS[kind], module=OfNumbers)
    assert uninterrupted(replace(scenario, data=PlainNumbers)) == uninterrupted(scenario)
    check(scenario, saved_after_step(2))


def bars(scenario: Scenario, *cuts: Cut) -> dict[int, tuple[float, float | None]]:
    """For each epoch that the last session trained: where the progress bar ended, and its total."""
    seen: dict[int, tuple[float, float | None]] = {}

    class Bar(TQDMProgressBar):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            seen[trainer.current_epoch] = (self.train_progress_bar.n, self.train_progress_bar.total)

    shown = replace(scenario, trainer={**scenario.trainer, "enable_progress_bar": True}, callbacks=lambda: [Bar()])
    resumed(shown, *cuts) if cuts else train(shown)
    return seen


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 4}], ids=str)
@pytest.mark.parametrize(
    "cut", [saved_after_step(3), saved_at_epoch_end(0), raised_in("training_step", (1, 2))], ids=str
)
def test_progress_bars_end_at_their_totals(cut: Cut, options: dict[str, Any]) -> None:
    """In the resumed epoch and after it, the progress bar runs to the same end as in any other run."""
    scenario = Scenario(trainer=options)
    whole, rest = bars(replace(scenario, data=PlainNumbers)), bars(scenario, cut)
    assert {epoch: whole[epoch] for epoch in rest} == rest
