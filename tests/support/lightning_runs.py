"""Runs that are cut and resumed, and the one run that they must equal.

    Scenario    the data, its loader and the trainer's options
    Cut         how one session ends, and what saves its checkpoint
    check(scenario, cut, cut, ...)
                a run of one session for each cut, each resumed from the checkpoint of the one before, and a last
                one to the end, is the same as the run that was never cut

The first session starts afresh, so with no cut at all there is nothing to resume and nothing to check.
Each session has a model, a datamodule and a trainer of its own, and random streams of its own, as a new process has.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, Dataset

from resumable import BatchSchedule, resumable
from tests.support.cuts import Cut, checkpoint_in
from tests.support.recording import Recording, Step, flat

_QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "max_epochs": 3,
}


def numbers(*bounds: int) -> Dataset[int]:
    """A dataset whose samples are their own ids, from 0 or the first of *bounds* to the last."""
    return cast("Dataset[int]", range(*bounds))  # torch takes whatever has __getitem__ and __len__


class PlainNumbers(L.LightningDataModule):
    """Whatever loaders a scenario has, as Lightning alone trains and resumes them."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario

    def train_dataloader(self) -> Any:
        return self.scenario.loaders(self.scenario)

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(100, 106), batch_size=2)


@resumable
class Numbers(L.LightningDataModule):
    """The same, decorated."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario

    def train_dataloader(self) -> Any:
        return self.scenario.loaders(self.scenario)

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(100, 106), batch_size=2)


def data_of(schedule: BatchSchedule, *, rounds_down: bool = False) -> Callable[[Scenario], L.LightningDataModule]:
    """A datamodule's class whose batches *schedule* groups."""

    @resumable(schedule=schedule, decrease_batch_size_if_needed=rounds_down)
    class Numbers(PlainNumbers):
        """A class of its own for each schedule."""

    return Numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class Scenario:
    """What is trained, on what, and how. `trainer` holds the options of Lightning's Trainer that the case is about."""

    samples: int = 22
    batch_size: int = 4
    num_workers: int = 0
    shuffle: bool = True
    drop_last: bool = False
    loaders: Callable[[Scenario], Any] = field(default=lambda scenario: scenario.loader(), repr=False)
    data: Callable[[Scenario], L.LightningDataModule] = field(default=Numbers, repr=False)
    module: Callable[[], Recording] = field(default=Recording, repr=False)
    callbacks: Callable[[], list[L.Callback]] = field(default=list, repr=False)
    trainer: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def loader(self, *dataset: Any, cls: Callable[..., Any] = DataLoader, **options: Any) -> Any:
        """The scenario's DataLoader, over *dataset* in place of its numbers and with *options* in place of its own."""
        own = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }
        if {"sampler", "batch_sampler"} & set(options):
            del own["shuffle"]
        if "batch_sampler" in options:
            del own["batch_size"], own["drop_last"]
        return cls(*(dataset or (numbers(self.samples),)), **{**own, **options})


@dataclass(frozen=True)
class Run:
    """All of a run that must not depend on where it was cut. Floats compare to the bit, as torch.equal does."""

    steps: tuple[Step, ...]
    weights: dict[str, list[float]]
    current_epoch: int
    global_step: int
    lengths: dict[int, tuple[object, ...]]

    def ids(self, epoch: int) -> list[int]:
        """The ids that *epoch* trained, in their order."""
        return [number for step in self.steps if step.epoch == epoch for _, ids in step.batches for number in flat(ids)]

    def batches(self, epoch: int) -> int:
        """How many batches *epoch* trained."""
        return sum(len(step.batches) for step in self.steps if step.epoch == epoch)

    @property
    def epochs(self) -> list[int]:
        """The epochs that trained anything."""
        return sorted({step.epoch for step in self.steps})


@lru_cache(maxsize=64)
def uninterrupted(scenario: Scenario) -> Run:
    """The run of *scenario* in one session."""
    return run_of(train(scenario))


def resumed(scenario: Scenario, *cuts: Cut, then: Scenario | None = None) -> Run:
    """The run of *scenario* whose sessions end by *cuts*; those after the first go on as *then*, if given."""
    then = then or scenario
    return changed([(then if number else scenario, cut) for number, cut in enumerate(cuts)], then)


def changed(sessions: list[tuple[Scenario, Cut]], last: Scenario) -> Run:
    """The run of these sessions, each of its own scenario and ended by its cut, and a *last* one to the end."""
    assert sessions, "without a cut there is nothing to resume"
    checkpoint = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (scenario, cut) in enumerate(sessions):
            place = Path(folder, str(number))
            cut.carry_out(partial(train, scenario, checkpoint, session=number + 1), place)
            checkpoint = checkpoint_in(place)
        return run_of(train(last, checkpoint, session=len(sessions) + 1))


def check(scenario: Scenario, *cuts: Cut) -> None:
    """A run cut by *cuts* equals the uninterrupted one: ids, batches, steps, weights, counters and lengths."""
    expected, actual = uninterrupted(scenario), resumed(scenario, *cuts)
    assert repeated_and_lost(expected, actual) == ([], [])
    assert expected.steps == actual.steps
    assert expected == actual


def repeated_and_lost(expected: Run, actual: Run) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The (epoch, id) pairs that *actual* trained too often, and those that it trained too seldom."""
    wanted, got = (Counter((epoch, i) for epoch in run.epochs for i in run.ids(epoch)) for run in (expected, actual))
    return sorted((got - wanted).elements()), sorted((wanted - got).elements())


def train(scenario: Scenario, checkpoint: Path | None = None, *callbacks: L.Callback, session: int = 0) -> L.Trainer:
    """One session: train *scenario*, from *checkpoint* if there is one, until its own limits or a callback end it."""
    _own_random_streams(session)
    trainer = trainer_of(scenario, *callbacks)
    with warnings.catch_warnings():
        # a session need not save in the way, or to the folder, of the one before
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        trainer.fit(scenario.module(), scenario.data(scenario), ckpt_path=checkpoint)
    return trainer


def trainer_of(scenario: Scenario, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """The trainer of one session, which says nothing and saves only by the callbacks that it is given."""
    used = [*scenario.callbacks(), *callbacks]
    saves = any(isinstance(callback, Checkpoint) for callback in used)  # else Lightning would bring its own
    together = {**_QUIET, **scenario.trainer, **options}
    return L.Trainer(callbacks=used, enable_checkpointing=saves, **together)


def run_of(trainer: L.Trainer) -> Run:
    """What the sessions up to this one came to."""
    module = trainer.lightning_module
    assert isinstance(module, Recording)
    return Run(
        steps=tuple(module.history.steps),
        weights={name: weight.detach().tolist() for name, weight in module.named_parameters()},
        current_epoch=trainer.current_epoch,
        global_step=trainer.global_step,
        lengths=module.history.lengths,
    )


def _own_random_streams(session: int) -> None:
    # two processes share no random state: an order that leans on it must be seen to differ
    torch.manual_seed(session)
    random.seed(session)
