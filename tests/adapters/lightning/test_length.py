"""A dataset whose length changes between two epochs of a fit."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest

from resumable import ConfigurationError, ResumptionWarning, resumption_of
from tests.support.lightning_runs import Numbers, Scenario, train


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


def test_a_loader_that_is_kept_cannot_draw_what_is_gone() -> None:
    """The next epoch is refused."""
    with pytest.raises(ConfigurationError, match="has become shorter since its train loader was made"):
        train(scenario_of(Shrinking, 0))
