"""Megatron-style runs that are cut and resumed, and the one run that they must equal.

    Scenario    the data, the sampler, the datamodule and the trainer's options
    check(scenario, cut, cut, ...)      equal to the bit, batch sizes that vary included

It also compares every saved count with the samples that went into the saved weights. Each session has a calculator of its
own, as a new process has.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from resumable import resumable
from resumable.verdict import OnMismatch
from tests.support import nemo_shape
from tests.support.cuts import Cut, checkpoint_in
from tests.support.lightning_runs import Run, numbers, run_of
from tests.support.sampler_modules import WholeBatches

_QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "max_epochs": 1,
}


_EXPECTED = (
    "Be aware that when using `ckpt_path`",  # a session need not save in the way, or to the folder, of the one before
    "The dirpath has changed",
    "Found `dataloader_iter`",
    "You are using the `dataloader_iter` step flavor",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scenario:
    """What is trained, on what, and how. `trainer` holds the options of Lightning's Trainer that the case is about.

    *data* names the datamodule's class: whether BioNeMo's mixin is its base, and how it is decorated.
    *rebases* says how often each loader method calls `update_init_global_step()`, by the loader's mode.
    """

    samples: int = 64
    micro_batch_size: int = 8
    global_batch_size: int = 8
    rampup: tuple[int, int, int] | None = None
    kind: nemo_shape.DataloaderType = "single"
    data: str = "explicit"
    rebases: Mapping[str, int] = field(default_factory=dict[str, int])
    transforms: frozenset[str] = frozenset({"strategy"})
    restores_first: bool = False
    num_workers: int = 0
    module: Callable[[], WholeBatches] = field(default=WholeBatches, repr=False)
    callbacks: Callable[[], list[L.Callback]] = field(default=list, repr=False)
    trainer: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def sampler(self) -> Any:
        """The data sampler, as a datamodule makes it."""
        return nemo_shape.MegatronDataSampler(
            seq_len=1,
            micro_batch_size=self.micro_batch_size,
            global_batch_size=self.global_batch_size,
            rampup_batch_size=list(self.rampup) if self.rampup else None,
            dataloader_type=self.kind,
            output_log=False,
        )


@cache
def data_class(name: str) -> Any:
    """The datamodule's class, of one name always, so that its states are interchangeable.

    "mixin"            BioNeMo's base class, undecorated
    "plain"            undecorated, and without a state
    "explicit", "bare" decorated, without a base class
    "both"             decorated, and the base class too
    "warn", "adopt"    decorated, with this policy
    """
    base: Any = nemo_shape.MegatronDataModule if name in ("mixin", "both") else L.LightningDataModule

    class Data(base):  # type: ignore[misc]  # chosen when it runs
        def __init__(self, scenario: Scenario) -> None:
            super().__init__()
            self.scenario = scenario
            self.data_sampler = scenario.sampler()

        def train_dataloader(self) -> Any:
            loader = self.loader("train", numbers(self.scenario.samples))
            return (
                self.data_sampler.transform_dataloader(loader) if "datamodule" in self.scenario.transforms else loader
            )

        def val_dataloader(self) -> Any:
            return self.loader("validation", numbers(1000, 1000 + 2 * self.scenario.global_batch_size))

        def loader(self, mode: str, dataset: Any) -> Any:
            for _ in range(self.scenario.rebases.get(mode, 0)):
                self.update_init_global_step()
            workers = self.scenario.num_workers
            return nemo_shape.WrappedDataLoader(
                mode=mode,
                dataset=dataset,
                batch_size=self.scenario.micro_batch_size,
                num_workers=workers,
                persistent_workers=workers > 0,
            )

    Data.__qualname__ = "Data"
    if name in ("mixin", "plain"):
        return Data
    if name == "bare":
        return resumable(Data)
    policies: dict[str, OnMismatch] = {"warn": "warn", "adopt": "adopt"}
    return resumable(sampler="data_sampler", on_mismatch=policies.get(name, "error"))(Data)


Saves = list[tuple[int, int]]
"""For each state that was saved: its count, and the samples that had been trained."""


@lru_cache(maxsize=64)
def uninterrupted(scenario: Scenario) -> Run:
    """The run of *scenario* in one session."""
    return run_of(train(scenario))


def resumed(scenario: Scenario, *cuts: Cut, saves: Saves | None = None, then: Scenario | None = None) -> Run:
    """The run of *scenario* whose sessions end by *cuts*; those after the first go on as *then*, if given."""
    assert cuts, "without a cut there is nothing to resume"
    checkpoint, saves, then = None, [] if saves is None else saves, then or scenario
    with tempfile.TemporaryDirectory() as folder:
        for number, cut in enumerate(cuts):
            session = partial(train, then if number else scenario, checkpoint, session=number + 1, saves=saves)
            place = Path(folder, str(number))
            cut.carry_out(session, place)
            checkpoint = checkpoint_in(place)
        return run_of(train(then, checkpoint, session=len(cuts) + 1, saves=saves))


def check(scenario: Scenario, *cuts: Cut, then: Scenario | None = None) -> None:
    """A run cut by *cuts* equals the uninterrupted one: ids, batches, steps, weights, counters, lengths and counts."""
    saves: Saves = []
    expected, actual = uninterrupted(scenario), resumed(scenario, *cuts, saves=saves, then=then)
    check_counts(saves)
    assert ids(expected) == ids(actual)
    assert expected.steps == actual.steps
    assert expected == actual


def check_counts(saves: Saves) -> None:
    """Every saved count is that of the trained samples."""
    assert saves, "nothing was saved"
    assert [trained for _, trained in saves] == [count for count, _ in saves]


def ids(run: Run) -> list[int]:
    """All that was trained, in order."""
    return [number for epoch in run.epochs for number in run.ids(epoch)]


def counts(scenario: Scenario, *cuts: Cut) -> Saves:
    """For the state that each of *cuts* leaves: its count, and the truth."""
    last: Saves = []
    checkpoint = None
    with tempfile.TemporaryDirectory() as folder:
        for number, cut in enumerate(cuts):
            saves: Saves = []
            place = Path(folder, str(number))
            cut.carry_out(partial(train, scenario, checkpoint, session=number + 1, saves=saves), place)
            checkpoint = checkpoint_in(place)
            saved = torch.load(checkpoint, weights_only=True)
            last.append((saved["Data"]["consumed_samples"], trained_in(saved)))
    return last


def trained_in(checkpoint: Mapping[str, Any]) -> int:
    """The samples that went into a checkpoint's weights."""
    return sum(len(ids) for step in checkpoint["history"]["steps"] for _, ids in step["batches"])


class CountsEachStep(L.Callback):
    """Asks for the state behind each batch, as if it were saved there."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        assert isinstance(pl_module, WholeBatches)
        datamodule: Any = pl_module.datamodule
        pl_module.saves.append((datamodule.state_dict()["consumed_samples"], pl_module.trained))


class AsksForLoaders(L.Callback):
    """Requests the loaders of these modes behind each batch, as a callback that looks at the data does."""

    def __init__(self, *modes: str) -> None:
        self._modes = modes

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        assert isinstance(pl_module, WholeBatches)
        for mode in self._modes:
            getattr(pl_module.datamodule, f"{mode}_dataloader")()


def train(
    scenario: Scenario,
    checkpoint: Path | None = None,
    *callbacks: L.Callback,
    session: int = 0,
    saves: Saves | None = None,
) -> L.Trainer:
    """One session: train *scenario*, from *checkpoint* if there is one, until its own limits or a callback end it."""
    torch.manual_seed(session)  # two processes share no random state
    random.seed(session)
    nemo_shape.calculators().unset_num_microbatches_calculator()
    module, data = scenario.module(), data_class(scenario.data)(scenario)
    module.saves = [] if saves is None else saves
    strategy = nemo_shape.MegatronStrategy(
        restores_first=scenario.restores_first, transforms="strategy" in scenario.transforms
    )
    used = [*scenario.callbacks(), *callbacks]
    is_saving = any(isinstance(callback, Checkpoint) for callback in used)  # else Lightning would bring its own
    options = {**_QUIET, **scenario.trainer}
    trainer = L.Trainer(callbacks=used, enable_checkpointing=is_saving, strategy=strategy, **options)
    with warnings.catch_warnings():
        for expected in _EXPECTED:
            warnings.filterwarnings("ignore", message=expected)
        if scenario.data in ("mixin", "plain"):
            warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        trainer.fit(module, data, ckpt_path=checkpoint)
    return trainer
