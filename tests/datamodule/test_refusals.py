"""What cannot be decorated, given as an option, or counted."""

from __future__ import annotations

import pickle
import re
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from resumable import (
    ConfigurationError,
    DecorationError,
    MismatchError,
    ResumptionState,
    Shuffled,
    is_resumable,
    resumable,
    resumption_of,
)
from resumable.adapters import lightning
from resumable.datamodule.loop import LoopAdapter
from resumable.datamodule.trainer import TrainerAdapter, adapter_of
from tests.support.datamodules import SIZE, Child, N, Plain, Slotted, expected, returning, trained
from tests.support.reference import numbers
from tests.support.users_own import Stream


class Static:
    """A loader of nobody."""

    trainer = None

    @staticmethod
    def train_dataloader() -> Any:
        """Anything."""


class OfTheClass:
    """A loader of the class."""

    trainer = None

    @classmethod
    def train_dataloader(cls) -> Any:
        """Anything."""


class AsAProperty:
    """A loader that is no method."""

    trainer = None

    @property
    def train_dataloader(self) -> Any:
        """Anything."""


class Loaderless:
    """Nothing to attach to."""

    trainer = None


class Network(torch.nn.Module):
    """A state_dict of weights."""

    trainer = None

    def train_dataloader(self) -> Any:
        """Anything."""


REFUSED: list[tuple[Any, str, str]] = [
    (Slotted, "Slotted has __slots__ and no __dict__", "__slots__: ('n',)\nAdd '__dict__' to its __slots__."),
    (
        Static,
        "Static.train_dataloader must be a method",
        "it is a: 'staticmethod'\nDefine it as a plain method, with self.",
    ),
    (
        OfTheClass,
        "OfTheClass.train_dataloader must be a method",
        "it is a: 'classmethod'\nDefine it as a plain method, with self.",
    ),
    (AsAProperty, "AsAProperty.train_dataloader", "it is a: 'property'\nDefine it as a plain method, with self."),
    (Loaderless, "Loaderless has no train_dataloader of its own", "or decorate the subclass that defines it."),
    (
        type("Datamodule", (L.LightningDataModule,), {}),
        "Datamodule has no train_dataloader of its own",
        "Define it (an abstract method will do)",
    ),
    (Network, "Network is a torch module: its state_dict holds weights", "Move train_dataloader into a Lightning"),
    (L.LightningModule, "LightningModule is a torch module", "decorate that."),
    (7, "@resumable decorates a class", "got: 7\nPut it above a class; give its options by name: @resumable(seed=1)."),
    (Plain.train_dataloader, "@resumable decorates a class", "Put it above a class"),
]


@pytest.mark.parametrize(
    ("thing", "what", "advice"), REFUSED, ids=[what.split(maxsplit=1)[0] for _, what, _ in REFUSED]
)
def test_what_cannot_be_decorated(thing: Any, what: str, advice: str) -> None:
    """It is said at decoration, with what to do; the class is left as it was, and the error survives pickling."""
    before = dict(vars(thing)) if isinstance(thing, type) else None
    with pytest.raises(DecorationError) as caught:
        resumable(thing)
    assert str(caught.value).startswith(what)
    assert advice in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
    assert before is None or before == dict(vars(thing))


def test_a_static_loader_in_a_subclass() -> None:
    """It is said when the subclass is made."""
    with pytest.raises(DecorationError, match="train_dataloader must be a method"):
        type("Sub", (Plain,), {"train_dataloader": staticmethod(lambda: None)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": 5}, "sampler= names the attribute"),
        ({"schedule": 8}, "schedule= lacks the methods of a BatchSchedule"),
        ({"sampler": "data_sampler", "schedule": "0:8 20:16"}, "schedule= lacks the methods of a BatchSchedule"),
        ({"calculator": 5}, "calculator= lacks the members of a MicrobatchCalculator"),
    ],
    ids=str,
)
def test_options_that_are_not_what_they_are_called(options: dict[str, Any], said: str) -> None:
    """They are said at decoration, with what is missing."""
    with pytest.raises(ConfigurationError, match=said):
        resumable(**options)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "1"])
def test_impossible_seeds_are_refused_at_decoration(seed: Any) -> None:
    """They are refused at decoration, with the value, as the loader and the orders refuse them."""
    with pytest.raises(ConfigurationError, match=rf"^(A )?seed must .*\n  seed: +{seed!r}\n") as caught:
        resumable(seed=seed)
    with pytest.raises(ConfigurationError, match=re.escape(str(caught.value))):
        Shuffled(10, seed)


def test_an_impossible_policy_is_refused_at_decoration() -> None:
    """A misspelt policy is said at decoration."""
    policy: Any = "ignore"
    with pytest.raises(ConfigurationError, match="Pass 'error', 'warn' or 'adopt'"):
        resumable(on_mismatch=policy)


FITS: tuple[TrainerAdapter, ...] = (LoopAdapter(None), lightning.Adapter(None))  # type checkers look at this line
FOREIGN: Any = type("Trainer", (), {"__module__": "lightning_like.trainer"})
SUBCLASS: Any = type("Tuner", (L.Trainer,), {"__module__": "my_project"})
OLD: Any = type("Trainer", (), {"__module__": "pytorch_lightning.trainer.trainer"})


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        pytest.param(None, LoopAdapter, id="no trainer"),
        pytest.param(FOREIGN(), LoopAdapter, id="of another package"),
        pytest.param(OLD(), lightning.Adapter, id="of the old package"),
        pytest.param(object.__new__(SUBCLASS), lightning.Adapter, id="a subclass of Lightning's"),
    ],
)
def test_the_class_of_a_trainer_chooses_its_adapter(trainer: Any, expected: type[object]) -> None:
    """A trainer belongs to the framework that one of its classes named Trainer comes from; all others are loops."""
    data: Any = Plain()
    data.trainer = trainer
    assert type(adapter_of(data)) is expected
    assert expected in map(type, FITS)


def test_undecorated_things_have_no_state() -> None:
    """They are told apart by their class alone, and have no state."""

    class Explosive:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert [False, False, True, True] == [is_resumable(thing) for thing in (Explosive(), Static(), Plain(), Child())]
    with pytest.raises(DecorationError, match="Static has no resumption state") as caught:
        resumption_of(Static())
    assert "Put @resumable above the class." in str(caught.value)
    assert isinstance(resumption_of(Plain()), ResumptionState)


LOADERS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "A train_dataloader returned something that cannot be iterated.\n  got: None"),
    "a number": (7, "A train_dataloader returned something that cannot be iterated.\n  got: 7"),
    "two loaders": (
        [DataLoader(numbers(4)), DataLoader(numbers(4))],
        "Outside Lightning, the position of one map-style train loader can be counted.",
    ),
    "a stream": (
        DataLoader(Stream()),
        "Outside Lightning, the position of one map-style train loader can be counted.",
    ),
}


@pytest.mark.parametrize("what", LOADERS)
def test_loaders_that_cannot_be_counted(what: str) -> None:
    """It is said when the loader is asked for, and the state stays as it was."""
    returned, message = LOADERS[what]
    data = returning(returned)
    data.load_state_dict({"consumed_samples": 6})
    with pytest.raises(DecorationError) as caught:
        data.train_dataloader()
    assert message in str(caught.value)
    assert 6 == data.state_dict()["consumed_samples"]


def test_an_empty_dataset_trains_nothing() -> None:
    """Its loader is left as it is, and so is the position."""
    data = returning(DataLoader(numbers(0)))
    data.load_state_dict({"consumed_samples": 6})
    assert [] == list(data.train_dataloader())
    assert 6 == data.state_dict()["consumed_samples"]


def test_another_length_is_refused_when_the_loader_is_built() -> None:
    """The verdict comes with the loader, since only it knows the length; a loader of the right one still works."""
    data: Any = Plain()
    trained(data, 3)
    fresh: Any = Plain()
    fresh.n = 20
    fresh.load_state_dict(data.state_dict())
    with pytest.raises(MismatchError, match=r"The dataset has another length\.\n  saved:   16\n  current: 20"):
        fresh.train_dataloader()
    fresh.n = N
    assert expected(5)[3:] == trained(fresh, 2)


def test_a_class_without_a_trainer() -> None:
    """A class for a loop of one's own need not pretend to have a trainer."""

    class Trainerless:
        def train_dataloader(self) -> Any:
            return DataLoader(numbers(N), batch_size=SIZE, shuffle=True)

    made: Any = resumable(Trainerless)()  # type: ignore[type-var]  # type checkers ask for it
    assert expected(3) == trained(made, 3)
    made.load_state_dict(made.state_dict())
