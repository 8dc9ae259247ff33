"""Streams under Lightning, with a state of their own and without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ResumptionWarning
from tests.support.cuts import Cut, also_with_workers, on_any_exception, raised_in, saved_after_step
from tests.support.lightning_runs import Scenario, check, resumed
from tests.support.samplers import LIMITS, SET_VITAL, every_cut, some_cuts

if TYPE_CHECKING:
    import lightning as L


class Stream(IterableDataset[int]):
    """The numbers below *samples*, shared out among the workers."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from range(first, self.samples, step)


class SizedStream(Stream):
    """The same, with a length."""

    def __len__(self) -> int:
        return self.samples


class StatefulStream(IterableDataset[int]):
    """One that can say where it is and go on there; it shuffles each pass otherwise. At its end it stays at its end."""

    def __init__(self, samples: int) -> None:
        self.samples, self.given, self.pass_number, self.reads = samples, 0, 0, 0
        self.is_loaded = False

    def __iter__(self) -> Iterator[int]:
        if self.given and not self.is_loaded:
            self.given, self.pass_number = 0, self.pass_number + 1
        self.is_loaded = False
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order = random.Random(self.pass_number).sample(range(self.samples), self.samples)[first::step]
        while self.given < len(order):
            self.given, self.reads = self.given + 1, self.reads + 1
            yield order[self.given - 1]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given, "pass_number": self.pass_number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given, self.pass_number, self.is_loaded = state["given"], state["pass_number"], True


class RewindingStream(StatefulStream):
    """One that goes back to its beginning by itself when it comes to its end."""

    def __iter__(self) -> Iterator[int]:
        yield from super().__iter__()
        self.given, self.pass_number = 0, self.pass_number + 1


def streaming(cls: Callable[[int], Any], num_workers: int = 0, *, loader: Any = DataLoader, **options: Any) -> Scenario:
    """A scenario over a stream."""
    return Scenario(
        num_workers=num_workers, shuffle=False, loaders=lambda s: s.loader(cls(s.samples), cls=loader), **options
    )


@pytest.mark.filterwarnings("ignore:This resume reads the stream again", "ignore:Your `IterableDataset` has `__len__`")
@pytest.mark.parametrize("cls", [Stream, SizedStream])
@also_with_workers
@every_cut
def test_streams_without_a_state(cuts: tuple[Cut, ...], num_workers: int, cls: type[Stream]) -> None:
    """What lies behind is read again and dropped: slow, but exact."""
    check(streaming(cls, num_workers), *cuts)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_a_stream_again_is_said(num_workers: int) -> None:
    """A resume that must read again says so, once, and why."""
    with pytest.warns(ResumptionWarning, match="reads the stream again up to its position") as warned:
        resumed(streaming(Stream, num_workers), saved_after_step(3))
    assert 1 == sum(warning.category is ResumptionWarning for warning in warned)


@pytest.mark.parametrize("cls", [StatefulStream, RewindingStream])
@pytest.mark.parametrize("limit", LIMITS, ids=str)
@every_cut
def test_streams_with_a_state(cuts: tuple[Cut, ...], limit: dict[str, int], cls: type[StatefulStream]) -> None:
    """The state of the stream after the last trained batch is saved, whatever was read since."""
    check(streaming(cls, trainer=limit), *cuts)


@pytest.mark.filterwarnings(SET_VITAL)
@some_cuts
def test_streams_with_a_state_in_workers(cuts: tuple[Cut, ...]) -> None:
    """In workers the stream's state is reached through torchdata, for which a stream has to stay at its end."""
    check(streaming(StatefulStream, 2), *cuts)


@pytest.mark.filterwarnings(SET_VITAL, "ignore:This resume reads the stream again")
@pytest.mark.parametrize("cls", [Stream, StatefulStream])
@also_with_workers
@every_cut
def test_streams_in_torchdatas_loader(cuts: tuple[Cut, ...], num_workers: int, cls: type[Stream]) -> None:
    """Where the user's own loader is torchdata's, the state that it saves is carried along."""
    check(streaming(cls, num_workers, loader=StatefulDataLoader), *cuts)


@pytest.mark.parametrize("accumulate_grad_batches", [2, 3])
@pytest.mark.parametrize("batch", range(6))
def test_streams_with_a_state_while_accumulating(batch: int, accumulate_grad_batches: int) -> None:
    """The stream's state goes back to the last optimizer step as well."""
    scenario = streaming(StatefulStream, trainer={"accumulate_grad_batches": accumulate_grad_batches})
    check(scenario, raised_in("training_step", (1, batch)))


def test_a_stream_with_a_state_is_not_read_again() -> None:
    """From its state a stream goes on at once, behind the last trained batch, which is compared."""
    streams: list[StatefulStream] = []

    def loaders(scenario: Scenario) -> Any:
        streams.append(StatefulStream(scenario.samples))
        return scenario.loader(streams[-1])

    resumed(Scenario(shuffle=False, loaders=loaders, trainer={"max_epochs": 1}), saved_after_step(4))
    assert 22 - 12 == streams[-1].reads


def at_once(trainer: L.Trainer) -> bool:
    """Wherever the trainer is."""
    return True


@pytest.mark.filterwarnings("ignore:This resume reads the stream again")
@pytest.mark.parametrize("cls", [Stream, StatefulStream])
def test_a_stream_in_a_session_that_trains_nothing(cls: type[Stream]) -> None:
    """A stream's state that is loaded and saved again, without a batch between, can be loaded again."""
    idle = replace(raised_in("on_train_start", (0, 0), on_any_exception), when=at_once)
    check(streaming(cls), saved_after_step(2), idle)


@pytest.mark.filterwarnings("ignore:This resume reads the stream again")
@pytest.mark.parametrize("cut", [saved_after_step(2), raised_in("training_step", (1, 1))], ids=str)
def test_a_stream_beside_a_map_style_dataset(cut: Cut) -> None:
    """A stream cycled beside a map-style dataset; each goes on at its own place."""
    check(
        Scenario(loaders=lambda s: CombinedLoader([s.loader(), s.loader(Stream(40), shuffle=False)], "min_size")), cut
    )
