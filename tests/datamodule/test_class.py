"""`@resumable` on any class: the same class afterwards, and subclasses that follow."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import lightning as L
import pytest
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from resumable import resumable, resumption_of
from tests.support.datamodules import SIZE, Child, Module, N, Plain, expected, trained
from tests.support.reference import numbers

T = TypeVar("T")


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


def test_decorated_twice_is_decorated_once() -> None:
    """The same as once; the outer options win."""

    @resumable(seed=7)
    @resumable(seed=8)
    class Twice(Plain):
        pass

    assert expected(3, seed=7) == trained(Twice(), 3)


def test_a_generic_class_stays_generic() -> None:
    """A generic class stays one."""

    @resumable
    class Of(Plain, Generic[T]):
        pass

    assert expected(3) == trained(Of[int](), 3)


def test_an_abstract_class_stays_abstract() -> None:
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


def test_a_dataclass_keeps_its_fields() -> None:
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
