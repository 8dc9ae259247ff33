"""A decorated datamodule in a loop without Lightning: a position in each instance, with and without a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
from torch.utils.data import DataLoader

from resumable import (
    ConfigurationError,
    ConstantBatchSize,
    DecorationError,
    LinearRampup,
    MismatchError,
    Position,
    ResumableLoader,
    ResumptionError,
    StateError,
    resumable,
    resumption_of,
)
from resumable.saved.snapshot import KEYS
from tests.support.datamodules import SIZE, Child, Module, N, Plain, expected, returning, take, trained
from tests.support.reference import numbers

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
