"""The decorated class itself: what a user may do with the class, its instances, their trainers and their states."""

from __future__ import annotations

import copy
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
from tests.support.lightning_runs import (
    Numbers,
    PlainNumbers,
    Run,
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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the default scenario after its third step."""
    cut = saved_after_step(3)
    cut.carry_out(lambda *callbacks: train(Scenario(), None, *callbacks), tmp_path)
    return tmp_path / "cut.ckpt"


def ids_by_epoch(run: Run) -> list[list[int]]:
    """The ids of each epoch, in their order."""
    return [run.ids(epoch) for epoch in run.epochs]


def datamodule_of(trainer: L.Trainer) -> Any:
    """The datamodule of a running fit, which Lightning's types leave out."""
    return trainer.datamodule  # type: ignore[attr-defined]


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
def test_kinds_of_classes(kind: type[Any], cuts: tuple[Cut, ...]) -> None:
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


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_of_ours_without_the_decorator() -> None:
    """Taking the decorator away again leaves a checkpoint that Lightning loads."""
    decorated = Scenario(shuffle=False, data=Renamed)
    assert 3 == resumed(decorated, saved_after_step(3), then=replace(decorated, data=PlainNumbers)).current_epoch


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
