"""Several ranks, one of which is asked to stop: all of them stop behind the same step, and any number goes on."""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch.distributed as dist

from resumable import agree_to_stop, stop_on
from resumable.stopping.signals import stop_requested
from tests.support.cuts import LoaderPosition
from tests.support.lightning_runs import Scenario
from tests.support.rank_runs import Session
from tests.support.ranks import in_ranks
from tests.support.resizes import ACCUMULATING, NOT_SYNCED, SCENARIO, check
from tests.support.stops import Asked, asked

if TYPE_CHECKING:
    import lightning as L


def steps_until_asked(rank: int, step: int, *, ranks_in_group: int) -> tuple[list[int], list[bool]]:
    """How many steps each rank of a loop trains, where *rank* gets the signal in *step*; and each rank's flag."""
    dist.init_process_group("gloo")
    mine = dist.get_rank()
    group: Any = dist.new_group(list(range(ranks_in_group)))
    is_in_group, trained = mine < ranks_in_group, 0
    with stop_on():
        for number in range(10):
            if (mine, number) == (rank, step):
                signal.raise_signal(signal.SIGTERM)
            trained += 1
            if is_in_group and agree_to_stop(group):
                break
        told: list[tuple[int, bool]] = [(0, False)] * dist.get_world_size()
        dist.all_gather_object(told, (trained, stop_requested()))
    dist.destroy_process_group()
    return [steps for steps, _ in told], [flag for _, flag in told]


@pytest.mark.parametrize("rank", [0, 2])
def test_ranks_agree_to_stop(rank: int) -> None:
    """Whichever is asked; each rank then knows it."""
    found = in_ranks(3, partial(steps_until_asked, rank, 4, ranks_in_group=3))
    assert ([5, 5, 5], [True, True, True]) == found


def test_a_group_of_ranks_agrees_alone() -> None:
    """The others are neither asked nor awaited."""
    assert ([3, 3, 10], [True, True, False]) == in_ranks(3, partial(steps_until_asked, 1, 2, ranks_in_group=2))


def asked_on_rank(rank: int, hook: str, place: LoaderPosition, number: signal.Signals = signal.SIGTERM) -> Asked:
    """The signal comes to one rank alone."""

    def act(trainer: L.Trainer) -> None:
        if trainer.global_rank == rank:
            signal.raise_signal(number)

    return replace(asked(hook, place, number), action=act)


@pytest.mark.parametrize("rank", [0, 1])
def test_lightnings_ranks_stop_together(rank: int) -> None:
    """No collective is called from a handler, and nobody waits for a rank that is gone."""
    first = Session(2, SCENARIO, asked_on_rank(rank, "training_step", (0, 1)))
    second = Session(3, SCENARIO, asked_on_rank(rank, "on_train_batch_start", (1, 0), signal.SIGUSR1))
    check((first, 2), (second, 2), (Session(1, SCENARIO), None))


def test_lightnings_ranks_stop_behind_a_window() -> None:
    """The window is finished on all of them."""
    first = Session(2, ACCUMULATING, asked_on_rank(1, "on_train_batch_end", (0, 2)))
    check((first, 4), (Session(2, ACCUMULATING), None))


@pytest.mark.filterwarnings(NOT_SYNCED)
def test_lightnings_ranks_stop_during_a_validation() -> None:
    """Where each has the same number of batches, it is not awaited."""
    scenario = Scenario(trainer={"limit_val_batches": 1.0, "val_check_interval": 2})
    first = Session(2, scenario, asked_on_rank(1, "validation_step", (0, 1)))
    check((first, 2), (Session(2, scenario), None))
