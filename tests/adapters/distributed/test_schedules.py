"""Schedules under Lightning on several processes: the steps are those of the schedule on any number of ranks.

sizes 12, then 24    ranks 1    6 batches of 2 a step, then 12
                     ranks 2    3 rounds of 4,         then  6
                     ranks 3    2 rounds of 6,         then  4
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resumable import StepSchedule
from tests.support.cuts import (
    Cut,
    on_any_exception,
    raised_in,
    saved_after_step,
    saved_at_epoch_end,
    saved_in,
    sigkill,
)
from tests.support.lightning_runs import Scenario, data_of
from tests.support.rank_runs import EpochCount, Session, orders_of, refusal, run, trained, uncut
from tests.support.reference import LoaderPosition, Setup, run_of

SIZES = ((0, 12), (36, 24))
EPOCHS = 3
RAMP = Scenario(samples=43, batch_size=2, data=data_of(StepSchedule(SIZES)), trainer={"max_epochs": EPOCHS})
SCENARIOS = {
    "shuffled": RAMP,
    "in order": replace(RAMP, shuffle=False),
    "dropped": replace(RAMP, drop_last=True),
    "by steps": replace(RAMP, trainer={"max_epochs": EPOCHS, "max_steps": 1000}),
    "validated": replace(
        RAMP, trainer={"max_epochs": EPOCHS, "limit_val_batches": 2, "val_check_interval": 3, "gradient_clip_val": 0.5}
    ),
}
RESIZES = [(2, 1), (2, 3), (1, 2), (3, 2), (2, 2)]
ALL = 10**6
pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use `self.log:UserWarning")
"""The recording module logs each rank's own validation loss."""
few = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def walked(scenario: Scenario, *parts: tuple[int, int, int]) -> tuple[list[EpochCount], LoaderPosition]:
    """The steps of these parts by the rule, sample by sample, and the place behind them.

    A part is its number of ranks, its micro batch, and how many steps of the run are done at its end.
    """
    orders = orders_of(Scenario(samples=scenario.samples, shuffle=scenario.shuffle))
    done: list[EpochCount] = []
    at: LoaderPosition = (0, 0, 0)
    for ranks, micro, stop in parts:
        for step in run_of(Setup(scenario.samples, micro, ranks, SIZES, scenario.drop_last), at):
            if len(done) == stop or step.begins[1] == EPOCHS:
                break
            done.append((step.begins[1], tuple(_ids(orders, ranked) for ranked in step.rounds)))
            at = step.ends
    return done, at


def _ids(orders: list[list[int]], ranked: list[list[tuple[int, int]]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(orders[epoch][place] for epoch, place in samples) for samples in ranked)


def check(*sessions: tuple[Session, int]) -> None:
    """A chain of sessions, each with the steps that the run has done when it is saved, follows the rule.

    So do the counters, and the number of batches that Lightning sees in the epochs that the last session begins.
    """
    parts = [(session.ranks, session.scenario.batch_size, steps) for session, steps in sessions]
    scenario, expected = sessions[0][0].scenario, walked(sessions[0][0].scenario, *parts)[0]
    actual = run(*(session for session, _ in sessions))
    assert expected == trained(actual)
    assert list(range(len(expected))) == [step.global_step for step in actual.steps]
    assert (EPOCHS, len(expected)) == (actual.current_epoch, actual.global_step)
    _, (_, epoch, offset) = walked(scenario, *parts[:-1])
    begun = range(epoch + (offset > 0), EPOCHS)
    rounds = {epoch: sum(len(step[1]) for step in expected if step[0] == epoch) for epoch in begun}
    assert {epoch: (batches, batches) for epoch, batches in rounds.items()} == {
        epoch: actual.lengths[epoch] for epoch in begun
    }


def resize(scenario: Scenario, cut: Cut, steps: int, ranks: tuple[int, int], way: str = "ddp") -> None:
    """Two sessions, of so many ranks each."""
    before, after = ranks
    check((Session(before, scenario, cut, way), steps), (Session(after, scenario, None, way), ALL))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_run_that_is_never_cut(ranks: int, name: str) -> None:
    """Every number of ranks takes the scheduled global batch in each step, from the order of one process."""
    check((Session(ranks, SCENARIOS[name]), ALL))


def test_as_many_ranks_again() -> None:
    """The run is the same to the bit, weights included."""
    assert uncut(RAMP, 2) == run(Session(2, RAMP, saved_after_step(2)), Session(2, RAMP))


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_resized_between_two_steps_the_next_step_is_the_same(steps: int, ranks: tuple[int, int]) -> None:
    """Before and behind the boundary of the schedule, and around the end of an epoch."""
    resize(SCENARIOS["dropped"], saved_after_step(steps), steps, ranks)


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_ends_a_run_its_schedule_goes_on(name: str) -> None:
    """Whatever ends the run or comes between its batches."""
    resize(SCENARIOS[name], saved_after_step(3), 3, (2, 3))


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
@pytest.mark.parametrize("name", ["shuffled", "dropped"])
def test_at_an_epochs_end(name: str, ranks: tuple[int, int]) -> None:
    """The next epoch has the length that its own steps have."""
    steps = next(n for n, (epoch, _) in enumerate(walked(SCENARIOS[name], (1, 2, ALL))[0]) if epoch == 1)
    resize(SCENARIOS[name], saved_at_epoch_end(0), steps, ranks)


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
@pytest.mark.parametrize(
    "cut", [saved_in("on_train_batch_end", (0, 6)), raised_in("training_step", (0, 7), on_any_exception)], ids=str
)
def test_batches_of_an_incomplete_step_are_trained_again(cut: Cut, ranks: tuple[int, int]) -> None:
    """Batches of a step that is not complete are trained again; of seven, one is left over on each number of ranks."""
    resize(RAMP, cut, {1: 1, 2: 2, 3: 3}[ranks[0]], ranks)


def test_several_resizes_micro_batches_and_workers() -> None:
    """In one epoch, with other micro batches; what workers have read ahead counts for nothing."""
    ones = replace(RAMP, batch_size=1)
    check(
        (Session(3, RAMP, saved_after_step(1)), 1),
        (Session(2, ones, saved_after_step(2)), 2),
        (Session(1, replace(RAMP, batch_size=4), saved_after_step(3)), 3),
        (Session(2, replace(RAMP, num_workers=2)), ALL),
    )


def test_every_rank_is_killed() -> None:
    """SIGKILL in the middle of a step, on all ranks at once."""
    resize(RAMP, sigkill((1, 1), every_n_steps=1), 4, (2, 3))


@pytest.mark.parametrize("way", ["fsdp", "fsdp2"])
def test_sharded_modules_follow_the_schedule(way: str) -> None:
    """Lightning builds loaders before it restores these checkpoints."""
    resize(RAMP, saved_after_step(2), 2, (2, 3), way)


def test_a_number_of_ranks_that_does_not_divide() -> None:
    """It is refused on every rank, with the sizes that would do."""
    said = refusal(Session(2, replace(RAMP, batch_size=5)))
    assert "global batch size:     12" in said
    assert "data_parallel_size:    2" in said
    assert "'10 or 20'" in said


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[Session, int]]:
    """Up to three sessions of at least one step, and one to the end, of any configuration that divides."""
    sizes: dict[str, Any] = {"samples": draw(st.integers(24, 70)), "drop_last": draw(st.booleans())}
    scenario = replace(RAMP, **sizes, shuffle=draw(st.booleans()))
    total = len(walked(scenario, (1, 1, ALL))[0])
    stops = sorted(draw(st.sets(st.integers(1, total - 1), max_size=3)))
    ways = [draw(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 3), (3, 2), (3, 4)])) for _ in [*stops, ALL]]
    cuts = [*map(saved_after_step, stops), None]
    return [
        (Session(ranks, replace(scenario, batch_size=micro), cut), stop)
        for (ranks, micro), cut, stop in zip(ways, cuts, [*stops, ALL], strict=True)
    ]


@few
@given(chains())
def test_drawn_chains_train_the_steps_of_one_process(chain: list[tuple[Session, int]]) -> None:
    """Any chain of ranks and micro batches trains the steps of one process."""
    check(*chain)
