"""A loop that keeps its own epoch number, resumed where an epoch is over: it is told which epoch comes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from torch.utils.data import DataLoader

from resumable import ResumptionWarning, resumable, resumption_of
from tests.support.loader_runs import EPOCHS, cut, expected, loader_of, restarted
from tests.support.reference import batches_of

COMES = "The loaded state is the start of an epoch: all epochs before it are trained.\n  epoch of this pass: {}\n"


@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("batches", range(1, 9))
def test_a_state_of_an_epochs_end_says_which_epoch_comes(batches: int, commits: bool) -> None:
    """A loop that never asks for the epoch is told at its first pass; in mid-epoch there is nothing to tell."""
    first = loader_of()
    trained, state = cut(first, batches)
    if commits:
        first.commit()
        state = first.state_dict()
    loader = restarted(state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rest = [batch.tolist() for _ in range(batches // 3, EPOCHS) for batch in loader]
    assert expected() == trained + rest
    assert [COMES.format(batches // 3)] * (batches % 3 == 0) == [
        str(each.message).partition("A loop")[0] for each in caught
    ]


@pytest.mark.parametrize("of_state", [False, True])
def test_a_loop_that_asks_for_the_epoch_is_told_nothing(of_state: bool) -> None:
    """It knows already, wherever it asks."""
    trained, state = cut(loader_of(), 6)
    loader = restarted(state)
    epoch = loader.state.position.epoch if of_state else loader.epoch
    rest = [batch.tolist() for _ in range(epoch, EPOCHS) for batch in loader]
    assert expected() == trained + rest


def test_a_second_load_is_told_anew() -> None:
    """What was asked before a load says nothing of the state after it."""
    loader = loader_of()
    saved = cut(loader_of(), 3)[1]
    assert expected()[:3] == list(batches_of(loader, 1))
    loader.load_state_dict(saved)
    with pytest.warns(ResumptionWarning, match="epoch of this pass: 1"):
        next(iter(loader))


@pytest.mark.parametrize("asks", [False, True])
def test_a_datamodule_in_a_loop_is_told_as_well(asks: bool) -> None:
    """Its state is loaded before there is a loader, and may be asked by then; a new loader for each epoch is no resume."""

    @resumable
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return DataLoader(range(12), batch_size=4)  # type: ignore[arg-type]  # torch's stubs take no range

    data: Any = Data()
    for _ in range(2):
        assert 3 == len(list(data.train_dataloader()))
    fresh: Any = Data()
    fresh.load_state_dict(data.state_dict())
    if asks:
        assert 2 == resumption_of(fresh).position.epoch
        next(iter(fresh.train_dataloader()))
        return
    loader = fresh.train_dataloader()
    with pytest.warns(ResumptionWarning, match="epoch of this pass: 2"):
        next(iter(loader))
