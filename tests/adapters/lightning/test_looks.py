"""Callbacks that iterate the train loader while a fit trains with it: they move nothing, with any workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from warnings import catch_warnings, filterwarnings

import lightning as L
import pytest
from torch.utils.data import IterableDataset

from resumable import ConstantBatchSize, ResumableLoader, ResumptionWarning
from tests.support import sampler_runs
from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import Run, Scenario, data_of, numbers, resumed, run_of, train

PERSISTENT: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}


class Look(L.Callback):
    """Takes *batches* batches of the train loader when the fit starts, and after the batches *at*; it keeps one iterator."""

    def __init__(self, batches: int = 1, *, asks: bool = False) -> None:
        self.batches = batches
        self.asks = asks
        self.kept: Any = None

    def look(self, trainer: Any) -> None:
        """At the trainer's loader, or at another one that it *asks* the datamodule for."""
        loader = trainer.datamodule.train_dataloader() if self.asks else trainer.train_dataloader
        self.kept = iter(loader)
        for _ in range(self.batches):
            next(self.kept)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the first batch."""
        self.look(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """In mid-epoch and at its end."""
        if batch_idx in (0, 2, trainer.num_training_batches - 1):
            self.look(trainer)


def loaders(make: Callable[[Scenario], Any], **options: Any) -> dict[str, Any]:
    """The options of a scenario with these loaders."""
    return {"loaders": make, **options}


class Stream(IterableDataset[int]):
    """Some numbers, one after the other."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(22))


class Kept(Stream):
    """The same, from a place that all of its iterators move."""

    place = 0

    def __iter__(self) -> Iterator[int]:
        while self.place < 22:
            self.place += 1
            yield self.place - 1
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        """The place."""
        return {"place": self.place}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go there."""
        self.place = state_dict["place"]


LOADERS: dict[str, dict[str, Any]] = {
    "plain": loaders(lambda scenario: scenario.loader()),
    "workers": loaders(lambda scenario: scenario.loader(num_workers=1)),
    "persistent workers": loaders(lambda scenario: scenario.loader(**PERSISTENT)),
    "several": loaders(lambda scenario: [scenario.loader(), scenario.loader(numbers(50, 60))]),
    "a schedule": loaders(lambda scenario: scenario.loader(), data=data_of(ConstantBatchSize(8))),
    "a stream": loaders(lambda scenario: scenario.loader(Stream(), shuffle=False)),
    "a stream in persistent workers": loaders(lambda scenario: scenario.loader(Stream(), shuffle=False, **PERSISTENT)),
    "a ResumableLoader": loaders(lambda scenario: ResumableLoader(numbers(22), 4, shuffle=True, **PERSISTENT)),
}
"""By name: what the datamodule returns."""

CASES = [*product(LOADERS, [1]), *product(["plain", "persistent workers"], [3])]


@pytest.mark.parametrize(("name", "batches"), CASES)
def test_a_look_in_a_fit_moves_nothing(name: str, batches: int) -> None:
    """The fit trains the same batches with it, and so does a resume from a checkpoint that was saved after one."""
    undisturbed = run_of(train(Scenario(**LOADERS[name])))
    disturbed = Scenario(**LOADERS[name], callbacks=lambda: [Look(batches)])
    assert undisturbed == run_of(train(disturbed))
    with catch_warnings():
        filterwarnings("ignore", "This resume reads the stream again")
        assert undisturbed == resumed(disturbed, saved_after_step(3))


def test_a_look_that_moves_what_a_stream_keeps_is_said() -> None:
    """The dataset's own place is one for all of its iterators: nobody can give it back."""
    scenario = Scenario(loaders=lambda scenario: scenario.loader(Kept(), shuffle=False), callbacks=lambda: [Look()])
    with pytest.warns(ResumptionWarning, match="outside of the fit's own loop"):
        train(scenario)


def test_a_look_at_a_loader_that_is_asked_for_moves_nothing() -> None:
    """`trainer.datamodule.train_dataloader()` in mid-fit makes another loader, and the fit goes on with its own."""
    disturbed = Scenario(callbacks=lambda: [Look(asks=True)])
    assert run_of(train(Scenario())) == run_of(train(disturbed)) == resumed(disturbed, saved_after_step(3))


def test_persistent_workers_serve_all_epochs() -> None:
    """Those of the fit are started once, as without the decorator, unless a look is under way when an epoch begins."""
    started: list[int] = []

    class Counting(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            started.extend(worker.pid for worker in trainer.train_dataloader._iterator._workers)

    train(Scenario(**LOADERS["persistent workers"], callbacks=lambda: [Counting()]))
    assert (3, 1) == (len(started), len(set(started)))


def test_a_look_beside_a_data_samplers_batches_moves_nothing() -> None:
    """The batches that Megatron's samplers make are looked at from the position on as well."""

    def run(*callbacks: L.Callback) -> Run:
        scenario = sampler_runs.Scenario(num_workers=1)
        return run_of(sampler_runs.train(scenario, None, *callbacks))

    assert run() == run(Look())
