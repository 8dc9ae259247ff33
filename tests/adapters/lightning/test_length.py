"""A dataset whose length changes between two epochs of a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable import ConfigurationError, ResumptionWarning, resumption_of
from tests.support.cuts import saved_after_step
from tests.support.fits import datamodule_of, ids_by_epoch
from tests.support.lightning_runs import Numbers, PlainNumbers, Scenario, resumed, train, uninterrupted


class Growing(Numbers):
    """Six samples, and *by* more in each further epoch; some of them go where *by* is negative."""

    by = 3

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.buffer: Any = list(range(6))

    def train_dataloader(self) -> Any:
        return self.scenario.loader(self.buffer)


class Shrinking(Growing):
    """One sample less in each further epoch."""

    by = -1


class Changes(L.Callback):
    """Changes the dataset after each epoch."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)  # set by the fit
        data.buffer[:] = range(len(data.buffer) + data.by)


def scenario_of(data: type[Growing], reload: int) -> Scenario:
    """Three epochs."""
    options = {"reload_dataloaders_every_n_epochs": reload}
    return Scenario(batch_size=3, data=data, callbacks=lambda: [Changes()], trainer=options)


@pytest.mark.parametrize("data", [Growing, Shrinking])
def test_reloaded_loaders_follow(data: type[Growing]) -> None:
    """Each epoch has the samples that its dataset has, and a stretch of the ledger with this length."""
    trainer: Any = train(scenario_of(data, 1))
    trained = resumption_of(trainer.datamodule)
    lengths = [6, 6 + data.by, 6 + 2 * data.by]
    assert (lengths, sum(lengths)) == ([each.length for each in trained.ledger], trained.consumed_samples)


def test_a_loader_that_is_kept_says_what_it_leaves_out() -> None:
    """Lightning keeps an epoch's number of batches as well; the samples are those of the first epoch."""
    with pytest.warns(ResumptionWarning) as warned:
        trainer: Any = train(scenario_of(Growing, 0))
    said = """\
The dataset has become longer since its train loader was made: the epochs train as many as it had then.
  length then: 6
  length now:  9
Let the trainer ask for it again in each epoch: reload_dataloaders_every_n_epochs=1."""
    assert [said, said.replace("9", "12")] == [
        str(each.message) for each in warned if each.category is ResumptionWarning
    ]
    assert 18 == resumption_of(trainer.datamodule).consumed_samples


class Lengths(L.Callback):
    """Gives the dataset, between two epochs, as many samples as *lengths* say, and keeps in the checkpoint where it is."""

    def __init__(self, *lengths: int) -> None:
        self.left = list(lengths)

    def state_dict(self) -> dict[str, Any]:
        return {"left": list(self.left)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.left = list(state_dict["left"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resize(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        del self.left[0]
        if self.left:
            self._resize(trainer)

    def _resize(self, trainer: L.Trainer) -> None:
        datamodule_of(trainer).buffer[:] = range(self.left[0])


class Undecorated(PlainNumbers):
    """The same data without the decorator."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.buffer: Any = []

    def train_dataloader(self) -> Any:
        return self.scenario.loader(self.buffer)


@st.composite
def shrinking(draw: st.DrawFn) -> Scenario:
    """Three epochs, the later ones of any length up to the first's, in which a loader is kept."""
    first = draw(st.integers(1, 12))
    lengths = [first, draw(st.integers(0, first)), draw(st.integers(0, first))]
    return Scenario(
        batch_size=draw(st.integers(1, 5)),
        shuffle=draw(st.booleans()),
        data=Shrinking,
        callbacks=lambda: [Lengths(*lengths)],
        trainer={"accumulate_grad_batches": draw(st.integers(1, 2))},
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(shrinking())
def test_a_loader_that_is_kept_follows_a_shorter_dataset(scenario: Scenario) -> None:
    """Each epoch trains the samples that its dataset has, in as many batches as undecorated; none, where it has none."""
    expected, actual = uninterrupted(replace(scenario, data=Undecorated)), uninterrupted(scenario)
    assert [len(step.batches) for step in expected.steps] == [len(step.batches) for step in actual.steps]
    assert [sorted(ids) for ids in ids_by_epoch(expected)] == [sorted(ids) for ids in ids_by_epoch(actual)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("step", [2, 5, 6, 8])
def test_a_run_whose_dataset_shrinks_is_resumed(step: int, shuffle: bool) -> None:
    """In an epoch of any length; Lightning's own number of batches is that of the dataset which its run began with."""
    scenario = Scenario(batch_size=3, shuffle=shuffle, data=Shrinking, callbacks=lambda: [Lengths(12, 8, 4)])
    expected, actual = uninterrupted(scenario), resumed(scenario, saved_after_step(step))
    assert replace(expected, lengths={}) == replace(actual, lengths={})


def test_the_middle_of_an_epoch_cannot_lose_samples() -> None:
    """A pass that begins there is refused."""

    class Looks(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            datamodule_of(trainer).buffer[:] = [0]
            loader: Any = trainer.train_dataloader
            iter(loader)

    with pytest.raises(ConfigurationError, match="has become shorter since its train loader was made"):
        train(Scenario(batch_size=3, data=Shrinking, callbacks=lambda: [Looks()]))


@pytest.mark.parametrize("data", [Undecorated, Shrinking])
def test_an_empty_dataset_ends_the_fit(data: type[L.LightningDataModule]) -> None:
    """Lightning says that there is nothing to train, and goes on to nothing."""
    scenario = Scenario(shuffle=False, data=data, callbacks=lambda: [Lengths(0)])
    with pytest.warns(UserWarning, match="across ranks is zero"):
        trainer = train(scenario)
    assert 0 == trainer.global_step


@pytest.mark.parametrize("data", [PlainNumbers, Numbers])
def test_no_loader_ends_the_fit(data: type[L.LightningDataModule]) -> None:
    """A train_dataloader may return an empty list."""
    with pytest.warns(UserWarning, match="across ranks is zero"):
        trainer = train(Scenario(data=data, loaders=lambda _: []))
    assert 0 == trainer.global_step
