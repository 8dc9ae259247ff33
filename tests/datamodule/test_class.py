"""`@resumable` on any class: the same class afterwards, subclasses that follow, and a position in each instance."""

from __future__ import annotations

import io
import pickle
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from resumable import (
    ConfigurationError,
    ConstantBatchSize,
    DecorationError,
    LinearRampup,
    MismatchError,
    Position,
    ResumableLoader,
    ResumptionError,
    ResumptionState,
    Shuffled,
    StateError,
    is_resumable,
    resumable,
    resumption_of,
)
from resumable.adapters import lightning
from resumable.datamodule.loop import LoopAdapter
from resumable.datamodule.trainer import TrainerAdapter, adapter_of
from resumable.saved.snapshot import KEYS
from tests.support.reference import COPIES, Loader, Reference, numbers, order_of

N, SIZE = 16, 2
T = TypeVar("T")


@resumable
class Plain:
    """A datamodule that knows nothing of Lightning, and saves nothing of its own."""

    trainer: Any = None
    n = N

    def train_dataloader(self) -> Any:
        """A shuffled loader over a few numbers."""
        return DataLoader(numbers(self.n), batch_size=SIZE, shuffle=True)


@resumable(seed=3)
class Module(L.LightningDataModule):
    """Lightning's datamodule."""

    def __init__(self, n: int = N) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.n = n

    def train_dataloader(self) -> Any:
        """As above."""
        return DataLoader(numbers(self.n), batch_size=SIZE, shuffle=True)

    def val_dataloader(self) -> Any:
        """Not shuffled, and not counted."""
        return DataLoader(numbers(4))


class Child(Module):
    """Undecorated, with a loader and a state of its own."""

    def train_dataloader(self) -> Any:
        """The parent's."""
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The parent's, and one key more."""
        return {**super().state_dict(), "more": 1}


def trained(datamodule: Any, batches: int) -> list[list[int]]:
    """The next batches of a plain loop."""
    return take(datamodule.train_dataloader(), batches)


def take(loader: Any, batches: int) -> list[list[int]]:
    """The next batches of one loader."""
    return [batch.tolist() for batch in islice(loader, batches)]


def returning(returned: Any) -> Any:
    """A datamodule whose loader method returns *returned*."""

    class Returning(Plain):
        def train_dataloader(self) -> Any:
            return returned

    return Returning()


def expected(batches: int, *, seed: int = 0, n: int = N) -> list[list[int]]:
    """The first batches of the uninterrupted run."""
    reference = Reference(order_of(n, shuffle=True, seed=seed))
    return [reference.take(SIZE) for _ in range(batches)]


# A position in each instance.


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(global_step=7)], ids=["no trainer", "a trainer"])
def test_a_plain_class_counts_what_its_loop_takes(trainer: Any) -> None:
    """Without Lightning a yielded batch counts; a trainer that knows its steps alone changes nothing."""
    data = Plain()
    data.trainer = trainer
    behind = trained(data, 3)
    assert Position(6, 0, 6) == resumption_of(data).position
    fresh: Any = Plain()
    fresh.trainer = trainer
    fresh.load_state_dict(data.state_dict())  # type: ignore[attr-defined]  # the decorator adds it
    assert expected(10) == behind + trained(fresh, 5) + trained(fresh, 2)


def test_a_lightning_datamodule_without_a_trainer_counts_its_loop_too() -> None:
    """The same class serves a loop of one's own."""
    data, fresh = Module(), Module()
    behind = trained(data, 3)
    fresh.load_state_dict(data.state_dict())
    assert expected(8, seed=3) == behind + trained(fresh, 5)


def test_commits_through_the_datamodules_state() -> None:
    """`resumption_of(datamodule).commit()` is the loader's."""
    data: Any = Plain()
    batches: Iterator[Any] = islice(data.train_dataloader(), 5)
    for number, _ in enumerate(batches, start=1):
        if number == 2:
            resumption_of(data).commit()
    assert Position(4, 0, 4) == resumption_of(data).position
    assert expected(3)[2:] == trained(data, 1)


def test_a_loader_that_is_asked_for_again_goes_on() -> None:
    """A new loader starts where the training stands, a look at the old one counting for nothing."""
    data = Plain()
    behind = trained(data, 3)
    next(iter(data.train_dataloader()))
    assert expected(7) == behind + trained(data, 4)


def test_asking_for_another_loader_in_mid_loop_moves_nothing() -> None:
    """The loop that runs is the one that counts, whoever asks for a loader to look at its length."""
    data: Any = Plain()
    counted: list[int] = []
    for number, _ in enumerate(data.train_dataloader()):
        if number in (2, 4):
            assert 8 == len(data.train_dataloader())
        counted.append(data.state_dict()["consumed_samples"])
    assert list(range(2, 18, 2)) == counted


def test_one_loader_for_ever() -> None:
    """A class that keeps its loader gets it back changed once, and may return it as often as it likes."""
    kept: Any = DataLoader(numbers(N), batch_size=SIZE, shuffle=True)
    data = Plain()
    cached = returning(kept)
    assert trained(data, 3) + trained(data, 4) == trained(cached, 3) + trained(cached, 4)
    assert cached.train_dataloader() is kept


def test_the_seed_is_that_of_seed_everything() -> None:
    """PL_GLOBAL_SEED, unless the decorator names a seed; a saved seed is adopted."""
    L.seed_everything(11, verbose=False)
    data: Any = Plain()
    behind = trained(data, 3)
    assert expected(3, seed=11) == behind
    assert expected(3, seed=3) == trained(Module(), 3)
    L.seed_everything(12, verbose=False)
    fresh: Any = Plain()
    fresh.load_state_dict(data.state_dict())
    assert expected(8, seed=11)[3:] == trained(fresh, 5)


def test_a_seed_of_the_decorator_is_meant() -> None:
    """A saved seed that contradicts it is refused when the loader is built, and the state stays."""
    data: Any = Module()
    trained(data, 3)
    other_class: Any = type("Other", (Module,), {})
    other: Any = resumable(seed=4)(other_class)()
    other.load_state_dict(data.state_dict())
    with pytest.raises(MismatchError, match=r"The order has another seed\.\n  saved:   3\n  current: 4"):
        other.train_dataloader()
    assert Position(6, 0, 6) == resumption_of(other).position


@pytest.mark.parametrize("make", [Plain, Module, Child])
def test_the_saved_keys(make: Callable[[], Any]) -> None:
    """Always the same, before the first loader as after it."""
    data = make()
    before = set(data.state_dict())
    trained(data, 2)
    assert set(KEYS) == before - {"more"}
    assert before == set(data.state_dict())


@pytest.mark.parametrize("state", [None, {}, [], {"consumed_samples": True}, {"consumed_samples": 1, "format": 9}])
@pytest.mark.parametrize("make", [Plain, Module])
def test_a_load_that_fails_leaves_everything_as_it_was(make: Callable[[], Any], state: Any) -> None:
    """Nothing of it reaches the class, and the loop goes on as if nobody had tried."""
    data = make()
    loader = data.train_dataloader()
    take(loader, 3)
    before = data.state_dict()
    with pytest.raises(StateError):
        data.load_state_dict(state)
    assert before == data.state_dict()
    again = take(loader, 2)
    assert expected(5, seed=3 if make is Module else 0)[3:] == again
    assert 10 == data.state_dict()["consumed_samples"]


class Refusing(Plain):
    """A class whose own part of a load fails."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """It does."""
        raise RuntimeError(f"{sorted(state_dict)} will not do")


def test_a_users_load_that_fails_leaves_everything_as_it_was() -> None:
    """The position is not moved by a load whose other half failed, and the loop's loader still counts."""
    data: Any = Refusing()
    loader = data.train_dataloader()
    take(loader, 3)
    before = data.state_dict()
    with pytest.raises(RuntimeError, match=r"'mine'.* will not do"):
        data.load_state_dict({"consumed_samples": 10, "mine": 1})
    assert before == data.state_dict()
    assert expected(5)[3:] == take(loader, 2)
    assert 10 == data.state_dict()["consumed_samples"]


RAMP = LinearRampup(start=2, end=6, increment=2, rampup_samples=8)


@resumable(schedule=RAMP, seed=1)
class StepPlan(Plain):
    """Steps that grow, in a loop without Lightning."""

    def train_dataloader(self) -> Any:
        """Micro batches of two."""
        return DataLoader(numbers(N), batch_size=2, shuffle=True)


def steps_of(data: Any, epochs: int, *, until: int = -1) -> list[list[int]]:
    """What each step takes, up to a number of steps."""
    taken: list[list[int]] = []
    loader = data.train_dataloader()
    while resumption_of(data).position.epoch < epochs and len(taken) != until:
        batches = iter(loader)
        while resumption_of(data).position.epoch < epochs and len(taken) != until:
            step = [next(batches, None) for _ in range(loader.num_microbatches)]
            if step[0] is None:
                break
            taken.append([int(number) for batch in step for number in cast("Any", batch)])
            resumption_of(data).commit()
    return taken


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_schedule_in_a_loop(cut: int) -> None:
    """Each step takes what the schedule says, and the rest is taken by a resume as by the run without a cut."""
    whole = steps_of(StepPlan(), epochs=2)
    assert [2, 2, 4, 6, 2, 6, 6, 4] == [len(step) for step in whole]
    data: Any = StepPlan()
    begun = steps_of(data, epochs=2, until=cut)
    resumed: Any = StepPlan()
    resumed.load_state_dict(data.state_dict())
    assert whole == begun + steps_of(resumed, epochs=2)


def test_a_schedule_that_does_not_fall_into_batches() -> None:
    """It is refused with the nearest sizes that would do."""

    @resumable(schedule=ConstantBatchSize(7))
    class Odd(StepPlan):
        def train_dataloader(self) -> Any:
            return DataLoader(numbers(N), batch_size=2)

    with pytest.raises(ConfigurationError, match=r"7(.|\n)*6(.|\n)*8"):
        Odd().train_dataloader()


def test_a_loader_that_lightning_would_not_follow() -> None:
    """A ResumableLoader whose epochs are not Lightning's is refused where it is returned."""

    @resumable
    class Data(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return ResumableLoader(numbers(N), batch_size=2, drop_last="carry")

    data = Data()
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(DecorationError, match="no batch can lead into the next"):
        data.train_dataloader()


def test_a_number_of_the_users_own_stays() -> None:
    """A loader that has a `num_microbatches` of its own keeps it."""

    class Own(DataLoader[Any]):
        def __init__(self) -> None:
            super().__init__(numbers(N), batch_size=2)
            self.num_microbatches = 5

    @resumable
    class Data(Plain):
        def train_dataloader(self) -> Any:
            return Own()

    loader = Data().train_dataloader()
    assert (5, N // 2 + N % 2) == (loader.num_microbatches, len(loader))
    loader.num_microbatches = 6
    assert 6 == loader.num_microbatches


def test_slots_that_came_behind_the_decorator() -> None:
    """A dataclass with slots is a new class, made of the decorated one: its instances have no room for a state."""

    @dataclass(slots=True)
    @resumable
    class Slotted:
        trainer: Any = None

        def train_dataloader(self) -> Any: ...

    slotted: Any = Slotted()
    for use in (lambda: resumption_of(slotted), slotted.train_dataloader, slotted.state_dict):
        with pytest.raises(DecorationError, match=r"Slotted has no __dict__.*\n.*\nLeave slots=True out"):
            use()


def test_loading_in_mid_loop() -> None:
    """It is refused, as a ResumableLoader refuses it."""
    data: Any = Plain()
    state = data.state_dict()
    for _ in data.train_dataloader():
        with pytest.raises(ResumptionError, match="while the loader is being iterated"):
            data.load_state_dict(state)
    assert Position(N, 1, 0) == resumption_of(data).position


# What the class saves itself.


class Keeping(Plain):
    """A class with a state of its own, that is strict about it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {"mine": 1, "nested": {"format": 2}}

    def state_dict(self) -> dict[str, Any]:
        """What it keeps."""
        return self.kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """All of it, and nothing else."""
        self.kept = state_dict


def test_a_state_of_ones_own_comes_back_as_it_was() -> None:
    """The class gets what it saved, and none of the position's keys."""
    data, fresh = Keeping(), Keeping()
    trained(data, 3)
    saved = data.state_dict()
    assert {*KEYS, "mine", "nested"} == set(saved)
    fresh.kept = {}
    fresh.load_state_dict(saved)
    assert ({"mine": 1, "nested": {"format": 2}}, 6) == (fresh.kept, resumption_of(fresh).consumed_samples)
    assert {"mine": 1, "nested": {"format": 2}} == data.kept


@pytest.mark.parametrize("key", [key for key in KEYS if key != "consumed_samples"])
def test_keys_that_the_position_needs(key: str) -> None:
    """A state of one's own with one of the position's keys is refused when it is saved, not lost."""
    data = Keeping()
    data.kept = {key: 1}
    with pytest.raises(ResumptionError, match=r"Keeping.state_dict\(\) saves keys that the position needs") as caught:
        data.state_dict()
    assert f"keys: ['{key}']\nGive them other names." in str(caught.value)


class Counting(Plain):
    """As NeMo's datamodules do it: the class saves and reads the count itself."""

    count = -1

    def state_dict(self) -> dict[str, Any]:
        """A count that nobody keeps right."""
        return {"consumed_samples": 3}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read as old code reads it."""
        self.count = state_dict["consumed_samples"]


def test_old_code_that_counts_itself() -> None:
    """Its `consumed_samples` is the position's from now on, and it still finds it when it loads."""
    data, fresh = Counting(), Counting()
    trained(data, 3)
    fresh.load_state_dict(data.state_dict())
    assert (6, 6) == (fresh.count, resumption_of(fresh).consumed_samples)


# The class stays what it was.


def test_it_is_the_same_class() -> None:
    """Lightning keys states by the name, and a decorator that gives another class breaks pickles and isinstance."""

    class Data:
        """Words."""

        trainer = None

        def train_dataloader(self) -> Any:
            """More words."""

    before = Data.__name__, Data.__qualname__, Data.__module__, Data.__doc__
    assert Data is resumable(Data)
    assert before == (Data.__name__, Data.__qualname__, Data.__module__, Data.__doc__)
    method = Data.train_dataloader
    names = method.__name__, method.__qualname__, method.__doc__
    assert ("train_dataloader", f"{Data.__qualname__}.train_dataloader", "More words.") == names


def test_no_hook_is_added() -> None:
    """Lightning asks which hooks a class overrides: what the class did not define stays undefined."""

    class Bare(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            """Only this."""

    before = {name: is_overridden(name, Bare(), L.LightningDataModule) for name in hooks()}
    resumable(Bare)
    after = {name: is_overridden(name, Bare(), L.LightningDataModule) for name in hooks()}
    assert before == after
    assert not after["val_dataloader"]
    added = {"state_dict", "load_state_dict", "__init_subclass__", "__resumable_options__"}
    rebase = {"update_init_global_step", "init_global_step"}
    assert {"train_dataloader"} | added | rebase == set(vars(Bare)) - {
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__jit_unused_properties__",
    }


def test_old_code_may_go_on_calling_the_mixins_rebase() -> None:
    """`update_init_global_step()` in a loader method changes nothing, and an own `init_global_step` is kept."""

    @resumable
    class Old:
        trainer = None

        def train_dataloader(self) -> Any:
            cast("Any", self).update_init_global_step()
            return DataLoader(numbers(N), batch_size=SIZE, shuffle=True)

    data: Any = Old()
    assert expected(3) == trained(data, 3)
    data.update_init_global_step()
    assert (0, 6) == (data.init_global_step, resumption_of(data).consumed_samples)
    data.init_global_step = 7
    assert 7 == data.init_global_step


def hooks() -> list[str]:
    """The hooks of a datamodule that Lightning looks at, but for the two that the position lives in."""
    theirs = [name for name in dir(L.LightningDataModule) if not name.startswith("_")]
    return [n for n in theirs if callable(getattr(L.LightningDataModule, n)) and "state_dict" not in n]


def test_hyperparameters_are_saved() -> None:
    """`save_hyperparameters` reads the caller's frame, in a child too."""

    class Grown(Module):
        def __init__(self, n: int, more: str = "x") -> None:
            super().__init__(n)
            self.save_hyperparameters()

    grown = Grown(8, more="y")
    resumption_of(grown)
    assert {"n": 8, "more": "y"} == {**cast("dict[str, Any]", grown.hparams)}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("make", [Plain, Module, Child])
def test_copies_stand_where_their_original_stood(make: Callable[[], Any], copied: Callable[[Any], Any]) -> None:
    """A copy, or a pickle that a spawned process gets, has the position and goes its own way."""
    data = make()
    seed = 0 if make is Plain else 3
    behind = trained(data, 3)
    twin = copied(data)
    assert expected(5, seed=seed) == behind + trained(twin, 2)
    assert (6, 10) == (resumption_of(data).consumed_samples, resumption_of(twin).consumed_samples)
    third = copied(twin)
    assert expected(7, seed=seed)[5:] == trained(third, 2)
    assert expected(4, seed=seed)[3:] == trained(data, 1)


def test_the_state_loads_as_weights_only() -> None:
    """Lightning's default since torch 2.6."""
    data: Any = Module()
    trained(data, 3)
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    assert data.state_dict() == torch.load(file, weights_only=True)


# All the shapes of classes.


def test_undecorated_subclasses_follow() -> None:
    """What a subclass overrides is wrapped when it is made, once, whatever it calls of its parent's."""
    data: Any = Child()
    assert expected(3, seed=3) == trained(data, 3)
    saved = data.state_dict()
    assert (6, 1) == (saved["consumed_samples"], saved["more"])

    class Grandchild(Child):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Nothing of its own."""

    grandchild = Grandchild()
    grandchild.load_state_dict(saved)
    assert expected(5, seed=3)[3:] == trained(grandchild, 2)


class Mixin:
    """A class beside the decorated one, that overrides its loader and its state without knowing of it."""

    def train_dataloader(self) -> Any:
        """Not shuffled."""
        return DataLoader(numbers(N), batch_size=SIZE)

    def state_dict(self) -> dict[str, Any]:
        """Its own."""
        return {"mixed": 1}


def test_a_mixin_before_a_decorated_class() -> None:
    """What the subclass inherits from elsewhere is followed as what it defines."""
    data: Any = type("Mixed", (Mixin, Plain), {})()
    assert [[0, 1], [2, 3], [4, 5]] == trained(data, 3)
    assert (6, 1) == (data.state_dict()["consumed_samples"], data.state_dict()["mixed"])


def test_super_chains_are_entered_once() -> None:
    """Decorated over decorated over undecorated: the position is attached, saved and loaded once."""
    calls: list[str] = []

    @resumable
    class Grown(Child):
        def train_dataloader(self) -> Any:
            calls.append("grown")
            return super().train_dataloader()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            calls.append("load")
            super().load_state_dict(state_dict)

    data: Any = Grown()
    assert expected(3) == trained(data, 3)
    fresh: Any = Grown()
    fresh.load_state_dict(data.state_dict())
    assert ["grown", "load"] == calls
    assert 6 == resumption_of(fresh).consumed_samples


def test_decorating_twice() -> None:
    """The same as once; the outer options win."""

    @resumable(seed=7)
    @resumable(seed=8)
    class Twice(Plain):
        pass

    assert expected(3, seed=7) == trained(Twice(), 3)


def test_generics() -> None:
    """A generic class stays one."""

    @resumable
    class Of(Plain, Generic[T]):
        pass

    assert expected(3) == trained(Of[int](), 3)


def test_abstract_classes() -> None:
    """An abstract method stays abstract, and what implements it is followed."""

    @resumable
    class Abstract(ABC):
        trainer = None

        @abstractmethod
        def train_dataloader(self) -> Any: ...

    class Concrete(Abstract):
        def train_dataloader(self) -> Any:
            return DataLoader(numbers(N), batch_size=SIZE, shuffle=True)

    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]  # the point
    assert expected(3) == trained(Concrete(), 3)


def test_dataclasses() -> None:
    """Fields, equality and repr stay; a frozen one holds a state as well."""

    @resumable
    @dataclass(frozen=True)
    class Fields:
        n: int = N
        trainer: Any = field(default=None, repr=False)

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(self.n), batch_size=SIZE, shuffle=True)

    data = Fields()
    assert expected(3) == trained(data, 3)
    assert (Fields(), True) == (data, repr(data).endswith("Fields(n=16)"))


def test_an_init_subclass_of_ones_own() -> None:
    """It is called as before, with its keywords."""
    seen: list[tuple[str, int]] = []

    @resumable
    class Registering(Plain):
        def __init_subclass__(cls, *, number: int = 0) -> None:
            super().__init_subclass__()
            seen.append((cls.__name__, number))

    class Numbered(Registering, number=5):
        pass

    assert [("Numbered", 5)] == seen
    assert expected(3) == trained(Numbered(), 3)


def test_slots_with_room_for_a_dict() -> None:
    """Where `__dict__` is among the slots there is a place for the state."""

    @resumable
    class Roomy:
        __slots__ = ("__dict__", "x")
        trainer = None

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(N), batch_size=SIZE, shuffle=True)

    assert expected(3) == trained(Roomy(), 3)


def test_two_threads_with_one_datamodule_each() -> None:
    """What one thread is inside of does not concern another."""
    found: dict[int, list[list[int]]] = {}

    def run(number: int) -> None:
        found[number] = trained(Module(), 5)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [expected(5, seed=3)] * 4 == [found[number] for number in range(4)]


# What cannot be decorated.


class Slotted:
    """Without a place for a state."""

    __slots__ = ("n",)
    trainer = None

    def train_dataloader(self) -> Any:
        """Anything."""


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
def test_impossible_seeds(seed: Any) -> None:
    """They are refused at decoration, with the value, as the loader and the orders refuse them."""
    with pytest.raises(ConfigurationError, match=rf"^(A )?seed must .*\n  seed: +{seed!r}\n") as caught:
        resumable(seed=seed)
    with pytest.raises(ConfigurationError, match=re.escape(str(caught.value))):
        Shuffled(10, seed)


def test_an_impossible_policy() -> None:
    """A misspelt policy is said at decoration."""
    policy: Any = "ignore"
    with pytest.raises(ResumptionError, match="Pass 'error', 'warn' or 'adopt'"):
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


def test_undecorated_things() -> None:
    """They are told apart by their class alone, and have no state."""

    class Explosive:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert [False, False, True, True] == [is_resumable(thing) for thing in (Explosive(), Static(), Plain(), Child())]
    with pytest.raises(DecorationError, match="Static has no resumption state") as caught:
        resumption_of(Static())
    assert "Put @resumable above the class." in str(caught.value)
    assert isinstance(resumption_of(Plain()), ResumptionState)


class Stream(IterableDataset[int]):
    """A dataset without places."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


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
    "no loaders": ([], "A train_dataloader returned no loader.\n  got: []"),
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


def test_an_empty_dataset() -> None:
    """Its loader could never yield anything."""
    data = returning(DataLoader(numbers(0)))
    with pytest.raises(ResumptionError, match="is empty"):
        data.train_dataloader()


def test_another_length() -> None:
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


def test_states_go_between_loaders_and_datamodules() -> None:
    """One form of saved state, whoever saved it."""
    data: Any = Plain()
    trained(data, 3)
    loader = Loader(range(N), batch_size=SIZE, shuffle=True)
    loader.load_state_dict(data.state_dict())
    assert expected(5)[3:] == take(loader, 2)
    fresh: Any = Plain()
    fresh.load_state_dict(loader.state_dict())
    assert expected(7)[5:] == trained(fresh, 2)


def test_a_class_without_a_trainer() -> None:
    """A class for a loop of one's own need not pretend to have a trainer."""

    class Trainerless:
        def train_dataloader(self) -> Any:
            return DataLoader(numbers(N), batch_size=SIZE, shuffle=True)

    made: Any = resumable(Trainerless)()  # type: ignore[type-var]  # type checkers ask for it
    assert expected(3) == trained(made, 3)
    made.load_state_dict(made.state_dict())
