"""Chains of cuts and changes that nobody thought of: drawn ones, each against the run that was never cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cuts import (
    Cut,
    LoaderPosition,
    interrupted,
    on_any_exception,
    raised_after,
    raised_in,
    saved_in,
    stopped,
)
from tests.support.lightning_runs import Run, Scenario, changed, check, uninterrupted

EPOCHS = 3
ENDS: list[Callable[[LoaderPosition], Cut]] = [
    lambda place: raised_in("on_train_batch_start", place, on_any_exception),
    lambda place: raised_in("training_step", place, on_any_exception),
    lambda place: raised_in("on_train_batch_end", place, on_any_exception),
    lambda place: saved_in("on_train_batch_end", place),
    lambda place: saved_in("on_before_backward", place),
    lambda place: replace(interrupted("training_step", place), saver=on_any_exception),
    stopped,
]
few = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Sizes down to one sample and one batch, both limits, and accumulation."""
    samples = draw(st.integers(1, 30))
    batch_size = draw(st.integers(1, 7))
    limit = draw(st.sampled_from([{"max_epochs": EPOCHS}, {"max_epochs": EPOCHS, "max_steps": 1000}]))
    return Scenario(
        samples=samples,
        batch_size=batch_size,
        shuffle=draw(st.booleans()),
        drop_last=draw(st.booleans()) and samples >= batch_size,
        trainer={**limit, "accumulate_grad_batches": draw(st.integers(1, 3))},
    )


@st.composite
def cut_scenarios(draw: st.DrawFn) -> tuple[Scenario, list[Cut]]:
    """A scenario and up to three cuts of it, each at a later batch than the one before."""
    scenario = draw(scenarios())
    per_epoch = uninterrupted(scenario).batches(0)
    numbers = sorted(draw(st.sets(st.integers(0, EPOCHS * per_epoch - 2), min_size=1, max_size=3)))
    return scenario, [draw(st.sampled_from(ENDS))(divmod(number, per_epoch)) for number in numbers]


def check_chain(drawn: tuple[Scenario, list[Cut]]) -> None:
    """The rule of this file's first test."""
    scenario, cuts = drawn
    check(scenario, *cuts)


@st.composite
def resized(draw: st.DrawFn) -> tuple[Scenario, list[tuple[int, int]], int]:
    """A scenario, up to three sessions as (batch size, batches until its end), and the last session's batch size."""
    scenario = replace(draw(scenarios()), trainer={"max_epochs": EPOCHS})
    sizes = st.integers(1, scenario.samples if scenario.drop_last else 9)
    sessions = draw(st.lists(st.tuples(sizes, st.integers(1, 12)), min_size=1, max_size=3))
    return scenario, sessions, draw(sizes)


def regrouped(
    orders: list[list[int]], sessions: list[tuple[int, int]], last: int, *, drop_last: bool
) -> tuple[list[list[list[int]]], int]:
    """The batches of each epoch, and how many of *sessions* come to their end before the run does.

    This is the rule itself, walked through batch by batch: a session cuts what is left of the present epoch into
    batches of its size, drops what does not fill one if it has to, and goes on to the next epoch.
    """
    trained: list[list[list[int]]] = [[] for _ in orders]
    epoch, offset, ended = 0, 0, 0
    for size, batches in [*sessions, (last, 10**6)]:
        done = 0
        while epoch < len(orders):
            if len(orders[epoch]) - offset < (size if drop_last else 1):
                epoch, offset = epoch + 1, 0
            elif done < batches:
                trained[epoch].append(orders[epoch][offset : offset + size])
                offset, done = offset + len(trained[epoch][-1]), done + 1
            else:
                break
        ended += epoch < len(orders)  # the exception comes in one more batch, if there is one
    return trained, ended


def check_resized(drawn: tuple[Scenario, list[tuple[int, int]], int]) -> None:
    """The rule of this file's second test."""
    scenario, sessions, last = drawn
    orders = uninterrupted(replace(scenario, batch_size=1, drop_last=False))
    _, ended = regrouped(orders_of(orders), sessions, last, drop_last=scenario.drop_last)
    sessions = sessions[:ended]
    if not sessions:
        return
    expected, _ = regrouped(orders_of(orders), sessions, last, drop_last=scenario.drop_last)
    actual = changed(
        [(replace(scenario, batch_size=size), raised_after(batches)) for size, batches in sessions],
        replace(scenario, batch_size=last),
    )
    assert expected == [
        [list(ids) for step in actual.steps if step.epoch == epoch for _, ids in step.batches]
        for epoch in range(EPOCHS)
    ]
    assert (EPOCHS, sum(map(len, expected))) == (actual.current_epoch, actual.global_step)


def orders_of(run: Run) -> list[list[int]]:
    """The order of each epoch."""
    return [run.ids(epoch) for epoch in range(EPOCHS)]


@few
@given(cut_scenarios())
def test_drawn_chains_of_cuts(drawn: tuple[Scenario, list[Cut]]) -> None:
    """Any chain of cuts ends in the run that was never cut."""
    check_chain(drawn)


@few
@given(resized())
def test_drawn_chains_of_batch_sizes(drawn: tuple[Scenario, list[tuple[int, int]], int]) -> None:
    """Through any chain of batch sizes every epoch trains its order, in batches of the size of their session."""
    check_resized(drawn)


@pytest.mark.slow
@many
@given(cut_scenarios())
def test_many_drawn_chains_of_cuts(drawn: tuple[Scenario, list[Cut]]) -> None:
    """The same, more often."""
    check_chain(drawn)


@pytest.mark.slow
@many
@given(resized())
def test_many_drawn_chains_of_batch_sizes(drawn: tuple[Scenario, list[tuple[int, int]], int]) -> None:
    """The same, more often."""
    check_resized(drawn)
