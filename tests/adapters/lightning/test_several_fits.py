"""Fits that follow each other, evaluations between them, and loaders that are asked for at any time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import pytest

from resumable import resumable, resumption_of
from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.fits import datamodule_of, ids_by_epoch
from tests.support.lightning_runs import (
    Numbers,
    PlainNumbers,
    Scenario,
    check,
    resumed,
    run_of,
    train,
    trainer_of,
    uninterrupted,
)
from tests.support.recording import Recording

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`", "ignore:You defined a `validation_step` but have no"
)


def test_two_runs_in_one_process(checkpoint: Path) -> None:
    """Two datamodules and two trainers know nothing of each other, however their fits follow one another."""
    expected = uninterrupted(Scenario())
    first, second = Numbers(Scenario()), Numbers(Scenario())
    trained_first, trained_second = trainer_of(Scenario()), trainer_of(Scenario())
    trained_first.fit(Recording(), first, ckpt_path=checkpoint)
    trained_second.fit(Recording(), second)
    assert [expected, expected] == [run_of(trained_first), run_of(trained_second)]
    assert [66, 66] == [resumption_of(dm).consumed_samples for dm in (first, second)]


def test_a_run_inside_a_run() -> None:
    """A fit of other data in a callback, as a tuner may do it, moves nothing of the outer one."""

    class FitsAnother(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if trainer.fit_loop.batch_idx == 2:
                train(replace(Scenario(), trainer={"max_epochs": 1}))

    scenario = Scenario(callbacks=lambda: [FitsAnother()])
    expected = uninterrupted(Scenario())
    assert expected == uninterrupted(scenario)
    assert expected == resumed(scenario, saved_after_step(3), saved_at_epoch_end(1))


def test_a_new_trainer_without_a_checkpoint_begins_anew(checkpoint: Path) -> None:
    """As with Lightning alone: the same datamodule under a new trainer, and no checkpoint, is a new run."""
    dm, expected = Numbers(Scenario()), uninterrupted(Scenario())
    for path in (checkpoint, None, None, checkpoint, None):
        trainer = trainer_of(Scenario())
        trainer.fit(Recording(), dm, ckpt_path=path)
        assert expected == run_of(trainer)


def test_a_trainer_that_died_and_a_new_one_without_a_checkpoint() -> None:
    """Also where the first trainer died in mid-epoch."""
    dm, expected = Numbers(Scenario()), uninterrupted(Scenario())

    class Dies(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.current_epoch == 1 and batch_idx == 2:
                raise RuntimeError("dies")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="dies"):
        trainer_of(Scenario()).fit(Dies(), dm)
    trainer = trainer_of(Scenario())
    trainer.fit(Recording(), dm)
    assert expected == run_of(trainer)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_second_fit_with_more_epochs(num_workers: int) -> None:
    """One trainer fits, is given more epochs, and fits on, as Lightning allows; the data goes on with it."""
    scenario = Scenario(num_workers=num_workers)
    trainer, module, dm = trainer_of(replace(scenario, trainer={"max_epochs": 1})), Recording(), Numbers(scenario)
    for epochs in (1, 2, 3):
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(module, dm)
    assert ids_by_epoch(uninterrupted(scenario)) == ids_by_epoch(run_of(trainer))


def test_a_second_fit_of_a_resumed_trainer(checkpoint: Path) -> None:
    """The same behind a resume."""
    trainer, module, dm = trainer_of(Scenario(trainer={"max_epochs": 2})), Recording(), Numbers(Scenario())
    trainer.fit(module, dm, ckpt_path=checkpoint)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, dm)
    assert ids_by_epoch(uninterrupted(Scenario())) == ids_by_epoch(run_of(trainer))


def test_one_trainer_resumes_from_one_checkpoint_twice(checkpoint: Path) -> None:
    """A checkpoint may be gone back to, by the trainer and the datamodule that went on from it."""
    trainer, dm, expected = trainer_of(Scenario()), Numbers(Scenario()), uninterrupted(Scenario())
    for _ in range(2):
        trainer.fit(Recording(), dm, ckpt_path=checkpoint)
        assert expected == run_of(trainer)


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
@pytest.mark.parametrize("path", [None, "checkpoint"])
def test_evaluations_before_and_after_a_fit(entry: str, path: str | None, checkpoint: Path) -> None:
    """`trainer.validate(ckpt_path=...)` and its like load the datamodule's state too; they move no training."""
    dm, scenario, expected = Evaluated(Scenario()), Scenario(), uninterrupted(Scenario())

    def evaluate() -> None:
        getattr(trainer_of(scenario, limit_val_batches=1.0), entry)(
            Assessed(), dm, ckpt_path=checkpoint if path else None, **({} if entry == "predict" else {"verbose": False})
        )

    evaluate()
    fresh = trainer_of(scenario)
    fresh.fit(Recording(), dm)
    assert expected == run_of(fresh)
    evaluate()
    again = trainer_of(scenario)
    again.fit(Recording(), dm, ckpt_path=checkpoint)
    assert expected == run_of(again)


def test_an_evaluation_between_two_fits_of_one_trainer(checkpoint: Path) -> None:
    """Validating from an older checkpoint, with the same trainer, does not take the data back."""
    trainer, module, dm = trainer_of(Scenario(trainer={"max_epochs": 2})), Recording(), Evaluated(Scenario())
    trainer.fit(module, dm)
    trainer.validate(Assessed(), dm, ckpt_path=checkpoint, verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, dm)
    assert ids_by_epoch(uninterrupted(Scenario())) == ids_by_epoch(run_of(trainer))


class Assessed(Recording):
    """A model for all of Lightning's entry points."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)


@resumable
class Evaluated(PlainNumbers):
    """A datamodule for all of Lightning's entry points, whose state is saved under the default one's name."""

    def test_dataloader(self) -> Any:
        return self.val_dataloader()

    def predict_dataloader(self) -> Any:
        return self.val_dataloader()


Evaluated.__qualname__ = Numbers.__qualname__  # Lightning keys saved states by it


HOOKS = [
    "setup",
    "configure_optimizers",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
]


def asking_in(hook: str, *, looking: bool) -> type[Recording]:
    """A module that asks the datamodule for its loaders whenever *hook* comes, and may look into the train loader."""

    def ask(self: Recording, *args: Any, **kwargs: Any) -> Any:
        dm = datamodule_of(self.trainer)
        dm.val_dataloader()
        loader = dm.train_dataloader()
        assert 6 == len(loader)
        if looking:
            next(iter(loader), None)  # the epoch may end here
        return getattr(Recording, hook)(self, *args, **kwargs)

    return type("Asking", (Recording,), {hook: ask})


@pytest.mark.parametrize("looking", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "cuts",
    [(saved_after_step(3), saved_at_epoch_end(1)), (saved_after_step(6), raised_in("training_step", (1, 3)))],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_loaders_asked_for_at_any_time(hook: str, looking: bool, cuts: tuple[Cut, ...]) -> None:
    """Asking the datamodule for loaders, or looking into them, moves neither the training nor what is saved of it."""
    validated = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2}
    scenario = Scenario(module=asking_in(hook, looking=looking), trainer=validated)
    assert uninterrupted(Scenario()) == uninterrupted(scenario)
    check(scenario, *cuts)


class OneLoader(Numbers):
    """It gives out one loader object, whenever it is asked, for validation too."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.loader = scenario.loader()

    def train_dataloader(self) -> Any:
        return self.loader

    def val_dataloader(self) -> Any:
        return self.loader


class ValidatesOnTrain(Numbers):
    """It validates on the train loader, for which it asks itself."""

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
@pytest.mark.parametrize("data", [OneLoader, ValidatesOnTrain])
@pytest.mark.parametrize("options", [{}, {"reload_dataloaders_every_n_epochs": 1}], ids=str)
@pytest.mark.parametrize(
    "cuts",
    [(saved_after_step(3), saved_at_epoch_end(1)), (saved_after_step(6), raised_in("training_step", (1, 3)))],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_the_train_loader_validates_too(data: type[Numbers], options: dict[str, int], cuts: tuple[Cut, ...]) -> None:
    """A validation over the train loader, in mid-epoch and at its end, is no training."""
    validated = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2, "val_check_interval": 3}
    scenario = Scenario(data=data, trainer={**validated, **options})
    assert uninterrupted(Scenario()) == uninterrupted(scenario)
    check(scenario, *cuts)


def test_loaders_asked_for_before_the_fit() -> None:
    """To count the steps, or to have a look, users ask for the loader before there is a trainer."""

    def data(scenario: Scenario) -> Numbers:
        dm = Numbers(scenario)
        assert 6 == len(dm.train_dataloader())
        next(iter(dm.train_dataloader()))
        return dm

    scenario = Scenario(data=data)
    assert uninterrupted(Scenario()) == uninterrupted(scenario)
    check(scenario, saved_after_step(3), raised_in("training_step", (1, 2)))
