"""Drawn chains of sessions, each on another number of ranks, against what the rule says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cuts import on_any_exception, raised_after, saved_in
from tests.support.lightning_runs import Scenario
from tests.support.rank_runs import Part, Session, rounds_of, rule
from tests.support.resizes import ACCUMULATING, RESIZES, SCENARIO, WAYS, check, resize

few = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[Session, int | None]]:
    """Up to three sessions that die after some batches, and one to the end, in any configuration."""
    samples, drop_last = draw(st.integers(1, 40)), draw(st.booleans())
    shuffle = draw(st.booleans())
    orders = [range(samples)] * 3
    chain: list[tuple[Session, int | None]] = []
    parts: list[Part] = []
    for batches in [*draw(st.lists(st.integers(1, 8), min_size=1, max_size=3)), None]:
        ranks = draw(st.integers(1, min(3, samples) if drop_last else 3))
        size = draw(st.integers(1, samples // ranks if drop_last else 8))
        accumulation = draw(st.integers(1, 3))
        part = Part(ranks, batches, size, accumulation)
        if batches is not None and rule(orders, *parts, part, drop_last=drop_last).ended == len(parts):
            continue  # the run would be over before this session is
        scenario = Scenario(
            samples=samples,
            batch_size=size,
            shuffle=shuffle,
            drop_last=drop_last,
            trainer={"max_epochs": 3, "accumulate_grad_batches": accumulation},
        )
        parts.append(part)
        cut = None if batches is None else replace(raised_after(batches), saver=on_any_exception)
        chain.append((Session(ranks, scenario, cut), batches))
    return chain


@few
@given(chains())
def test_drawn_chains_train_the_order_of_one_process(chain: list[tuple[Session, int | None]]) -> None:
    """Any chain of ranks, batch sizes, windows and deaths trains the order of one process."""
    check(*chain)


@pytest.mark.slow
@many
@given(chains())
def test_many_drawn_chains(chain: list[tuple[Session, int | None]]) -> None:
    """The same, more often."""
    check(*chain)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("scenario", [SCENARIO, ACCUMULATING, replace(SCENARIO, shuffle=False)], ids=repr)
@pytest.mark.parametrize("ranks", RESIZES, ids=str)
@pytest.mark.parametrize("batches", range(1, 6))
def test_after_every_batch(
    ranks: tuple[int, int], batches: int, scenario: Scenario, num_workers: int, way: str
) -> None:
    """The whole grid: saved in the hook behind every batch of the first epoch, and of the next."""
    if way != "ddp" and batches < scenario.trainer.get("accumulate_grad_batches", 1):
        pytest.skip("under FSDP, Lightning cannot go on with an optimizer that has not stepped yet")
    rounds = rounds_of(range(scenario.samples), Part(ranks[0]), drop_last=False)
    cut = saved_in("on_train_batch_end", divmod(batches - 1, rounds))
    resize(replace(scenario, num_workers=num_workers), cut, batches, ranks, way)
