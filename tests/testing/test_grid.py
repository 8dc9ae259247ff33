"""`check_resume` finds each seeded fault, by its right name, and nothing where there is none."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (a lambda for a function of the user's has no types)

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ConfigurationError, ResumableLoader
from resumable.testing import Cell, Matrix, Sizes, check_resume
from tests.support.broken_loaders import FAULTS, Honest, Ranked
from tests.support.reference import numbers

check = partial(check_resume, accumulation=[1], resizes=False, cuts=4)


def honest(fault: str = "") -> Honest:
    """The loader, without anything to vary."""
    return Honest(fault)


def outcomes(matrix: Matrix) -> dict[str, dict[str, int]]:
    """How often each outcome came up, by how the run was stopped."""
    return {row.cells[0].stopped: {str(name): count for name, count in row.outcomes.items()} for row in matrix.rows}


def test_an_honest_loader_is_exact() -> None:
    """Each way to stop it, at each place, in one step and in two accumulated ones."""
    matrix = check_resume(honest)
    assert str(matrix).startswith("All 48 runs"), matrix
    ways = ["after a step", "exception", "epoch end", "twice", "saved again"]
    assert ways * 2 == [row.cells[0].stopped for row in matrix.rows]
    assert matrix.is_exact


@pytest.mark.parametrize(("fault", "expected"), FAULTS.items())
def test_each_fault_has_its_name(fault: str, expected: str) -> None:
    """The word for what went wrong most often is the right one."""
    matrix = check(lambda: Honest(fault))
    found = [cell.outcome for cell in matrix.cells if cell.outcome != "exact"]
    assert not matrix.is_exact
    assert expected == max(found, key=found.count)
    assert expected in str(matrix)


def test_a_fault_of_the_second_resume_is_found() -> None:
    """A count that begins anew in each session is exact once."""
    found = outcomes(check(lambda: Honest("counts since the resume")))
    assert {"exact"} == set(found["after a step"])
    assert "repeated" in found["twice"]


def test_a_hang_is_found_and_ends_its_row() -> None:
    """A session that does not end is one cell of each row; the rest of the row is left out."""
    matrix = check(lambda: Honest("hangs"), epochs=1, cuts=1, time_limit=0.5)
    assert {"hang": 1} == outcomes(matrix)["after a step"]


def test_the_first_difference_has_both_values() -> None:
    """The step, counted from 1, what it should have trained and what it did, and how many samples are wrong."""
    matrix = check(lambda: Honest("starts the epoch again"), cuts=12)
    cell = next(cell for cell in matrix.cells if cell.cuts == (2,))
    order = Honest().order()
    assert (3, tuple(order[4:6]), tuple(order[:2])) == (cell.step, cell.expected, cell.actual)
    assert (4, 0) == (cell.repeated, cell.lost)
    assert "first in     step 2\n" in str(matrix)  # of the first failure
    assert "nothing: this is wrong in silence" in str(matrix)


def test_ranks_are_one_run() -> None:
    """What all ranks train in a step is compared together, also where their number changes."""
    matrix = check_resume(partial(_ranked, ""), accumulation=[1], cuts=3)
    found = outcomes(matrix)
    assert {"exact"} == {outcome for way, each in found.items() if way != "resized" for outcome in each}
    assert "repeated" in found["resized"]  # its state counts batches of one rank
    assert "repeated" in outcomes(check(partial(_ranked, "rank 0 for all"), cuts=3))["after a step"]


def _ranked(fault: str, data_parallel_rank: int, data_parallel_size: int) -> Ranked:
    keywords = {"data_parallel_rank": data_parallel_rank, "data_parallel_size": data_parallel_size}
    return Ranked(fault, n=12, size=2, **keywords)


def test_a_fault_of_workers_is_found() -> None:
    """The rows of two workers show what those without do not."""

    def make(num_workers: int) -> Honest:
        return Honest("forgets the last batch" if num_workers else "")

    matrix = check(make, cuts=3)
    assert {0: True, 2: False} == {
        number: all(row.is_exact for row in matrix.rows if row.cells[0].sizes.num_workers == number)
        for number in (0, 2)
    }


def test_what_each_session_inherits_is_what_a_new_process_has() -> None:
    """What a session leaves in memory does not help the next one."""
    kept: list[Any] = []

    class Remembers(Honest):
        def __init__(self) -> None:
            super().__init__()

        def state_dict(self) -> dict[str, Any]:
            kept.append(super().state_dict())
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict(kept[-1])

    assert {"crash"} == set(outcomes(check(Remembers, cuts=2))["after a step"])


# The real ones.


def test_our_loader_is_exact() -> None:
    """A `ResumableLoader` on one and two ranks, with accumulation, resized."""

    def make(data_parallel_rank: int, data_parallel_size: int) -> Any:
        return ResumableLoader(
            numbers(21),
            batch_size=4,
            shuffle=True,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
        )

    matrix = check_resume(make, accumulation=[2], cuts=3)
    assert matrix.is_exact, matrix


@pytest.mark.slow
def test_our_loader_is_exact_in_the_default_grid() -> None:
    """With workers too."""
    matrix = check_resume(lambda **sizes: ResumableLoader(numbers(21), shuffle=True, **sizes))
    assert matrix.is_exact, matrix


def _data_loader(batch_size: int) -> Any:
    return DataLoader(numbers(20), batch_size=batch_size, shuffle=True)


def test_a_plain_dataloader_is_not_exact() -> None:
    """It begins its epoch again; the shuffle that nothing seeds is said below the table."""
    matrix = check(_data_loader, batch_sizes=[4])
    found = outcomes(matrix)
    assert "repeated" in found["after a step"]
    assert "it draws random numbers that nothing seeds" in matrix.notes[0]


def test_a_stateful_dataloader_fails_where_it_is_known_to() -> None:
    """Torchdata's loader is exact after a step, loses what an exception found read, and refuses other workers."""

    def make(num_workers: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        return StatefulDataLoader(numbers(20), 4, shuffle=True, num_workers=num_workers, generator=generator)

    matrix = check_resume(make, accumulation=[1], num_workers=[0, 2], cuts=3)
    found = outcomes(matrix)
    assert {"exact"} == set(found["after a step"]) == set(found["twice"])
    assert {"lost"} == set(found["exception"])
    assert {"crash"} == set(found["resized"])


class Stream(IterableDataset[int]):
    """Numbers without a length, and without end."""

    def __iter__(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1


def test_a_stream_without_end_is_looked_at_as_far_as_is_asked() -> None:
    """`max_steps` ends it; a plain DataLoader over it begins again."""
    matrix = check(lambda: DataLoader(Stream(), batch_size=2), max_steps=6, cuts=3)
    assert "repeated" in outcomes(matrix)["after a step"]
    assert "Only the first 6 steps of the run were looked at." in matrix.notes


class MyLoop:
    """A loop of one's own around an honest loader; with a fault, it saves before it counts its last step."""

    def __init__(self, late: bool = False) -> None:
        self.loader, self.late = Honest(), late

    def run(self, step: Callable[..., None], /) -> None:
        for epoch in range(self.loader.epoch, 2):
            for batch in self.loader:
                if not self.late:
                    self.loader.commit()
                step(batch, epoch=epoch)
                self.loader.commit()

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: Any, /) -> None:
        self.loader.load_state_dict(state_dict)


def test_a_loop_of_ones_own() -> None:
    """It is stopped after its steps, by SIGKILL, and resumed; a step that it saved before it counted is found."""
    matrix = check_resume(MyLoop)
    assert matrix.is_exact, matrix
    assert ["after a step", "twice", "saved again"] == [row.cells[0].stopped for row in matrix.rows]
    assert "repeated" in outcomes(check_resume(lambda: MyLoop(late=True)))["after a step"]


# What is said.


def test_the_matrix_in_json() -> None:
    """All cells, with their sizes, whether all are exact, and the notes."""
    matrix = check(honest, cuts=1)
    read = json.loads(matrix.to_json())
    assert (True, len(matrix.cells), []) == (read["is_exact"], len(read["cells"]), read["notes"])
    assert {"stopped": "after a step", "outcome": "exact"}.items() <= read["cells"][0].items()


def test_a_warning_is_told_in_the_cell() -> None:
    """What is warned or logged in a resumed session is no longer wrong in silence."""

    class Tells(Honest):
        def __init__(self, by_log: bool) -> None:
            super().__init__("starts the epoch again")
            self.by_log = by_log

        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict(state)
            if self.by_log:
                logging.getLogger("mine").warning("the epoch begins again")
            else:
                warnings.warn("the epoch begins again", stacklevel=2)

    for by_log in (True, False):
        matrix = check(lambda: Tells(by_log), cuts=1)  # noqa: B023  # called in this turn
        assert "said         the epoch begins again" in str(matrix)
        assert "in silence" not in str(matrix).partition("exception")[0]


def test_an_epoch_that_trains_nothing_is_noted() -> None:
    """Epochs that are empty in the uninterrupted run too, as a generator's second one."""
    assert "Of 2 epochs, 1 trained anything." in check(lambda: iter([[1], [2], [3]]), cuts=2).notes


def test_the_table_is_readable_from_60_columns() -> None:
    """With all columns filled, in sizes that change, no line is longer."""
    cells = [
        Cell(
            stopped="after a step",
            sizes=Sizes(0, 16, 1, 1),
            then=Sizes(2, 32, 1, 1),
            cuts=(number,),
            outcome="reordered",
            step=3,
            expected=tuple(range(100_000, 100_032)),
            actual=tuple(range(32)),
            text="a long warning " * 20,
        )
        for number in range(12)
    ]
    text = str(Matrix((*cells, replace(cells[0], stopped="saved again", outcome="hang")), ("a note " * 20,)))
    assert max(map(len, text.splitlines())) <= 60
    assert "after a step      0>2  16>32      1      1  reordered 12/12" in text


def test_an_order_that_never_changes_is_noted() -> None:
    """A shuffle that is the same in each epoch is exact, and said."""

    class Same(Honest):
        def __init__(self) -> None:
            super().__init__()

        def order(self) -> list[int]:
            return [3, 1, 4, 0, 2, 9, 5, 8, 6, 7]

    matrix = check(Same, cuts=2)
    assert matrix.is_exact
    assert ("Epochs have the same order. If they are to be shuffled, they are not shuffled anew.",) == matrix.notes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: 7, "make made something that cannot be trained.\n  type: 'int'", id="a number"),
        pytest.param(lambda: [[0, 0], [0, 0]], "cannot be told apart", id="all the same"),
        pytest.param(lambda: [[object()]], "Pass identify=", id="an unknown thing"),
        pytest.param(lambda: 1 // 0, "ZeroDivisionError", id="an error"),
        pytest.param(lambda: os._exit(3), "the process ended with exit code 3", id="an exit"),
    ],
)
def test_what_cannot_be_checked_is_refused(make: Callable[[], Any], message: str) -> None:
    """The message says what was made, or what went wrong."""
    with pytest.raises(ConfigurationError) as caught:
        check(make)
    assert message in str(caught.value)


def test_a_run_that_fails_in_one_size_is_a_cell() -> None:
    """The other sizes are run all the same."""

    def make(batch_size: int) -> Honest:
        if batch_size == 3:
            raise ValueError("no threes")
        return Honest()

    matrix = check(make, cuts=1)
    (row,) = [row for row in matrix.rows if not row.is_exact]
    assert ("not stopped", "crash", "ValueError: no threes") == (
        row.cells[0].stopped,
        row.cells[0].outcome,
        row.cells[0].text,
    )
