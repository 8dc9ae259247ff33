"""The simulator of `tests.proofs`: drawn chains that must be exact, and broken parts that it must not let pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler

from tests.proofs.__main__ import main
from tests.proofs.simulation.chains import draw_chain
from tests.proofs.simulation.command import parts, play_part, simulate
from tests.proofs.simulation.loop import order_of
from tests.proofs.simulation.play import play
from tests.proofs.simulation.ranks import drawn_ahead
from tests.proofs.simulation.walk import first_place, walk
from tests.support.reference import Setup as ReferenceSetup
from tests.support.reference import numbers, run_of

# What must be exact.


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_any_chain_is_exact(draw: Random) -> None:
    """Whatever kills, resumes and resizes come after each other, no sample is lost, repeated or out of order."""
    chain = draw_chain(draw)
    outcome = play(chain)
    assert outcome.failure is None, f"{outcome.failure}\n\n{chain}"
    assert [0, 0, 0] == [outcome.tally[f"samples {what}"] for what in ("lost", "repeated", "out of order")]


def test_a_seeded_run_is_exact_and_meets_what_there_is() -> None:
    """Some hundred chains have every tail, kind of schedule, kill and change in them, and are exact."""
    tally, failed = play_part(0, 0, 600)
    assert (600, None, 0) == (tally["chains"], failed, tally["chains that failed"])
    met = {name.partition(": ")[0] for name, number in tally.items() if ": " in name and number > 5}
    assert {"ranks", "tail", "schedule", "accumulation", "drawn ahead", "killed", "changed", "loop"} <= met
    few = [name for name, number in tally.items() if ": " in name and number < 5 and "all ranks" not in name]
    assert [] == few
    assert tally["ranks: 513 to 4,096"] > 20
    assert tally["runs compared with the global order"] > 50
    assert tally["kills"] == tally["resumes"] + tally["restarts before the first save"] > 1_000


@pytest.mark.slow
def test_a_hundred_thousand_chains(capsys: pytest.CaptureFixture[str]) -> None:
    """The long seeded run is exact."""
    assert 0 == main(["simulate", "--chains", "100000"])
    assert "Exact: 0 samples lost, 0 repeated and 0 out of order in 100,000 chains" in capsys.readouterr().out


# The simulator's own parts.


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_two_walks_agree(draw: Random) -> None:
    """The simulator's walk, epoch by epoch in slices, is that of the tests, sample by sample."""
    chain = draw_chain(draw)
    setup = chain.sessions[0].setup
    sizes = setup.sizes
    assume(sizes is None or not (sizes.rounds_down or sizes.kind == "ramp"))
    assume(setup.largest < 500)
    order = order_of(chain)
    other = ReferenceSetup(
        chain.length, setup.micro_batch_size, setup.data_parallel_size, sizes.numbers if sizes else (), setup.drop_last
    )
    turns = walk(order, setup, first_place(chain.length, chain.start))
    for step in islice(run_of(other, first_place(chain.length, chain.start)), 3):
        for ranks in step.rounds:
            turn = next(turns)
            assert (step.begins, step.ends) == (turn.begins, turn.ends)
            shares = [[int(order.indices(epoch, at, at + 1)[0]) for epoch, at in share] for share in ranks]
            assert shares == [turn.of_rank(rank) for rank in range(len(ranks))]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_drawn_as_far_ahead_as_by_torchs_workers(workers: int) -> None:
    """Whenever a batch is given, as many are drawn as with a DataLoader's processes."""
    drawn, ahead = list[int](), list[int]()
    loader: Any = DataLoader(
        numbers(12), sampler=Noting(drawn), batch_size=None, num_workers=workers, prefetch_factor=2
    )
    of_torch = [(int(batch), len(drawn)) for batch in loader]
    ours = [(batch, len(ahead)) for batch in drawn_ahead(iter(Noting(ahead)), workers * 2)]
    assert of_torch == ours


class Noting(Sampler[int]):
    """The numbers below 12, noted when they are drawn."""

    def __init__(self, drawn: list[int]) -> None:
        self.drawn = drawn

    def __iter__(self) -> Iterator[int]:
        for number in range(12):
            self.drawn.append(number)
            yield number

    def __len__(self) -> int:
        return 12


def test_the_same_in_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are named by their numbers: one process or two play the same, in the same order."""
    monkeypatch.setattr("tests.proofs.simulation.command._PART", 15)
    alone, shared = list(parts(3, 40, 1)), list(parts(3, 40, 2))
    assert alone == shared
    assert [15, 15, 10] == [part.tally["chains"] for part in alone]


@pytest.mark.parametrize(
    "arguments", [[], ["simulate", "--chains", "0"], ["simulate", "--seed", "-1"], ["simulate", "--only", "x"]], ids=str
)
def test_wrong_use_gives_2_and_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Gives 2, and says how the command is used."""
    try:
        code: object = main(arguments)
    except SystemExit as left:
        code = left.code
    assert 2 == code
    out, err = capsys.readouterr()
    assert "usage: python -m tests.proofs" in out + err


def test_an_exact_run_says_what_it_met(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is exact says so, with what it met and which ranks were played."""
    assert 0 == simulate(0, 30, 1)
    told = capsys.readouterr().out
    assert re.search(r"^chains +30$", told, re.MULTILINE)
    assert re.search(r"^samples lost +0$", told, re.MULTILINE)
    assert "the first, the last and up to two between" in told
    assert "Exact: 0 samples lost, 0 repeated and 0 out of order in 30 chains of" in told
    assert 0 == main(["simulate", "--only", "3"])
    assert "Exact." in capsys.readouterr().out
