"""The decorated class itself: what a user may do with the class, its instances, their trainers and their states."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from resumable import is_resumable, resumable, resumption_of
from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end, saved_in
from tests.support.fits import datamodule_of, ids_by_epoch
from tests.support.lightning_runs import (
    Numbers,
    PlainNumbers,
    Scenario,
    check,
    numbers,
    resumed,
    run_of,
    train,
    trainer_of,
    uninterrupted,
)
from tests.support.recording import Recording

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`", "ignore:You defined a `validation_step` but have no"
)
CUTS = [(saved_after_step(3),), (saved_after_step(6), raised_in("training_step", (1, 2)))]
every_cut = pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts)))


class Sub(Numbers):
    """A subclass without a decorator of its own, which overrides everything and calls super()."""

    def train_dataloader(self) -> Any:
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sub": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert 1 == state_dict["sub"]
        super().load_state_dict(state_dict)


@resumable
class DecoratedAgain(Sub):
    """Decorated where a base class is already."""


class Adds(PlainNumbers):
    """Undecorated, between a plain base and a decorated child."""

    def train_dataloader(self) -> Any:
        return super().train_dataloader()


@resumable
class Inherits(Adds):
    """Its loader method comes from undecorated bases."""


@resumable(seed=3, on_mismatch="error")
class WithOptions(Adds):
    """The decorator's long form."""


@resumable
class WithHyperparameters(L.LightningDataModule):
    """One that saves its hyperparameters, which Lightning finds by the frame of `__init__`."""

    def __init__(self, scenario: Scenario, name: str = "a") -> None:
        super().__init__()
        self.scenario = scenario
        self.save_hyperparameters("name")

    def train_dataloader(self) -> Any:
        return self.scenario.loader()


class ChildWithHyperparameters(WithHyperparameters):
    """The same in a subclass with an argument more."""

    def __init__(self, scenario: Scenario, size: int = 4) -> None:
        super().__init__(scenario, name="b")
        self.save_hyperparameters("size")


@resumable
class WithSetup(L.LightningDataModule):
    """One that makes its dataset in `setup`, as Lightning suggests."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario

    def setup(self, stage: str) -> None:
        self.dataset = numbers(self.scenario.samples)

    def train_dataloader(self) -> Any:
        return self.scenario.loader(self.dataset)


KINDS = [Sub, DecoratedAgain, Inherits, WithOptions, WithHyperparameters, ChildWithHyperparameters, WithSetup]


@pytest.mark.parametrize("kind", KINDS)
@every_cut
def test_wherever_the_decorator_stands_a_run_resumes(kind: type[Any], cuts: tuple[Cut, ...]) -> None:
    """Wherever the decorator stands among the classes, a run resumes."""
    check(Scenario(data=kind), *cuts)


def test_hyperparameters_are_those_that_were_passed() -> None:
    """The decorator does not come between `__init__` and Lightning, which looks at frames."""
    assert {"name": "b", "size": 5} == ChildWithHyperparameters(Scenario(), size=5).hparams


def test_the_seed_of_the_decorator_makes_another_order() -> None:
    """Another seed is another run."""
    assert ids_by_epoch(uninterrupted(Scenario())) != ids_by_epoch(uninterrupted(Scenario(data=WithOptions)))


@every_cut
def test_the_seed_of_seed_everything(cuts: tuple[Cut, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """`seed_everything` leaves its seed in the environment; a resume without it goes on with the saved one."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    scenario = Scenario()
    expected = uninterrupted(scenario)
    assert ids_by_epoch(uninterrupted(Scenario(data=Seeded))) == ids_by_epoch(expected)
    assert expected == resumed(scenario, *cuts)
    assert expected == resumed(scenario, saved_after_step(3), then=replace(scenario, data=without_a_seed))


@resumable(seed=11)
class Seeded(PlainNumbers):
    """The seed that the environment has above."""


def without_a_seed(scenario: Scenario) -> Numbers:
    """A datamodule in a process that has not called seed_everything."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    return Numbers(scenario)


@resumable
class OwnState(PlainNumbers):
    """One with a state of its own, under whatever keys."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.calls = 0
        self.loaded: dict[str, Any] = {}

    def train_dataloader(self) -> Any:
        self.calls += 1
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "table": torch.arange(3), "nested": {"consumed_samples": 1}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = dict(state_dict)
        self.calls = state_dict["calls"]


@every_cut
def test_a_state_of_its_own_comes_back(cuts: tuple[Cut, ...]) -> None:
    """A class's own keys are saved beside the position, and its own load gets them, and only them."""
    made: list[OwnState] = []

    def data(scenario: Scenario) -> OwnState:
        made.append(OwnState(scenario))
        return made[-1]

    check(Scenario(data=data), *cuts)
    loaded = made[-1].loaded
    assert {"calls", "table", "nested"} == set(loaded)
    assert ([0, 1, 2], {"consumed_samples": 1}, len(cuts)) == (
        loaded["table"].tolist(),
        loaded["nested"],
        loaded["calls"],
    )


def test_what_is_saved_holds_plain_values_only(checkpoint: Path) -> None:
    """A checkpoint loads under torch's `weights_only`, and the position in it is small."""
    saved = torch.load(checkpoint, weights_only=True)["Numbers"]
    assert (12, 0, 12) == (saved["consumed_samples"], saved["epoch"], saved["offset"])


def pickled(thing: Any) -> Any:
    """What another process gets."""
    return pickle.loads(pickle.dumps(thing))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickled]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_a_datamodule(copied: Callable[[Any], Any]) -> None:
    """A copy is another datamodule at the same place: its training moves nothing of the original, nor the reverse."""
    original = PickledNumbers(22)
    fresh, expected = copied(original), uninterrupted(Scenario())
    for dm in (fresh, original, copied(fresh)):
        trainer = trainer_of(Scenario())
        trainer.fit(Recording(), dm)
        assert expected == run_of(trainer)
        assert 66 == resumption_of(dm).consumed_samples


@resumable
class PickledNumbers(L.LightningDataModule):
    """One without a scenario, which holds functions that cannot be pickled."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(numbers(self.samples), batch_size=4, shuffle=True)


def test_a_copy_holds_the_loaded_position(checkpoint: Path) -> None:
    """A datamodule that was copied or pickled between its load and its training still knows the position."""
    state = torch.load(checkpoint, weights_only=True)["Numbers"]
    dm = PickledNumbers(22)
    dm.load_state_dict(state)
    for copied in COPIES:
        assert state == copied(dm).state_dict() | {"ledger": state["ledger"]}


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"])
def test_saving_is_pure(hook: str) -> None:
    """State dicts taken in every hook of every batch change nothing, and are the same when taken twice."""

    class Saves(L.Callback):
        def save(self, trainer: L.Trainer, *_: object) -> None:
            dm = datamodule_of(trainer)
            assert dm.state_dict() == dm.state_dict()

    setattr(Saves, hook, Saves.save)
    scenario = Scenario(callbacks=lambda: [Saves()], num_workers=0)
    assert uninterrupted(Scenario()) == uninterrupted(scenario)
    check(scenario, saved_after_step(3), raised_in("training_step", (1, 2)))


def test_the_position_while_training() -> None:
    """Between batches, the state tells what is trained, whatever has been fetched."""
    seen: list[tuple[int, int, int]] = []

    class Looks(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            position = resumption_of(datamodule_of(trainer)).position
            seen.append((position.consumed_samples, position.epoch, position.offset))

    train(Scenario(callbacks=lambda: [Looks()], num_workers=2, trainer={"max_epochs": 2}))
    assert [
        *((4, 0, 4), (8, 0, 8), (12, 0, 12), (16, 0, 16), (20, 0, 20), (22, 1, 0)),
        *((26, 1, 4), (30, 1, 8), (34, 1, 12), (38, 1, 16), (42, 1, 20), (44, 2, 0)),
    ] == seen


def test_a_checkpoint_from_before_the_decoration_in_order() -> None:
    """A run that was begun without the decorator, in the dataset's own order, goes on exactly under it."""
    plain = Scenario(shuffle=False, data=PlainNumbers)
    then = replace(plain, data=Renamed)
    assert uninterrupted(plain) == resumed(plain, saved_after_step(3), then=then)
    assert uninterrupted(plain) == resumed(plain, saved_at_epoch_end(0), then=then)


@resumable
class Renamed(PlainNumbers):
    """What becomes of a plain class when it is decorated: its name stays."""


Renamed.__qualname__ = PlainNumbers.__qualname__


class PlainKeeper(PlainNumbers):
    """Saves what the position has too, but no count."""

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": 7, "global_step": "mine"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert {"epoch": 7, "global_step": "mine"} == dict(state_dict)


@resumable
class Keeper(PlainKeeper):
    """What becomes of it."""


PlainKeeper.__qualname__ = Keeper.__qualname__


@pytest.mark.parametrize("before", [PlainKeeper, Keeper])
def test_a_class_that_saves_the_positions_keys(before: type[Any]) -> None:
    """It finds its own values again; a checkpoint from before the decoration goes on from the trainer's counters."""
    scenario = Scenario(shuffle=False, data=before)
    assert uninterrupted(scenario) == resumed(scenario, saved_after_step(3), then=replace(scenario, data=Keeper))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_of_ours_without_the_decorator() -> None:
    """Taking the decorator away again leaves a checkpoint that Lightning loads."""
    decorated = Scenario(shuffle=False, data=Renamed)
    assert 3 == resumed(decorated, saved_after_step(3), then=replace(decorated, data=PlainNumbers)).current_epoch


def test_each_resume_is_one_line_of_the_log(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """INFO of the logger `resumable`, once a fit, however often its loaders are built anew; a first fit has none."""
    caplog.set_level(logging.INFO, logger="resumable")
    scenario = Scenario(trainer={"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1})
    said: list[list[str]] = []
    for start in (None, checkpoint, checkpoint):
        caplog.clear()
        train(scenario, start)
        said.append([record.getMessage() for record in caplog.records if record.name == "resumable"])
    line = "resumed at epoch 0, batch 3 of 6, 12 samples, exact"
    assert [[], [line], [line]] == said


def test_a_class_is_what_it_was() -> None:
    """The decorator gives back the same class, with its name, and leaves hooks that Lightning asks about alone."""

    class Plain(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return None

    before = set(vars(Plain))
    assert Plain is resumable(Plain)
    assert is_resumable(Plain())
    assert not is_resumable(PlainNumbers(Scenario()))
    assert "test_a_class_is_what_it_was.<locals>.Plain" == Plain.__qualname__
    assert set() == {name for name in set(vars(Plain)) - before if name in ("val_dataloader", "setup", "prepare_data")}


def test_saved_by_hand_in_every_hook_that_lightning_has() -> None:
    """`trainer.save_checkpoint()` between the batches of one run, each resumed from."""
    for hook in ("on_train_start", "on_train_epoch_start", "on_before_backward", "on_train_batch_end"):
        place = (0, -1) if hook in ("on_train_start", "on_train_epoch_start") else (0, 2)
        check(Scenario(), saved_in(hook, place))
