"""Ranks whose records are long or damaged, and processes that do not share out the data: an AgreementError on each."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import AgreementError, ResumptionState
from resumable.saved.agreement import RECORD_BYTES, Part, check_agreement, record_of
from tests.support.reference import Loader

STATE = {"consumed_samples": 8, "epoch": 0, "offset": 8}


def outcomes(processes: int, work: Callable[[int, Any], object]) -> list[str]:
    """What *work*, given a process's number and its all-gather, came to in each; threads play the processes."""
    barrier, records, found = threading.Barrier(processes), [b""] * processes, ["no end"] * processes

    def play(number: int) -> None:
        def all_gather(record: bytes, /) -> list[bytes]:
            records[number] = record
            barrier.wait(60)
            everyones = list(records)
            barrier.wait(60)
            return everyones

        try:
            work(number, all_gather)
            found[number] = "fine"
        except Exception as error:  # noqa: BLE001  # whatever it is, its name is compared
            found[number] = type(error).__name__

    threads = [threading.Thread(target=play, args=(number,)) for number in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


@pytest.mark.parametrize(
    ("numbers", "is_right"),
    [
        ([(0, 2), (1, 2)], True),
        ([(1, 2), (0, 2)], True),
        ([(0, 1)], True),
        ([(0, 2), (0, 2)], False),
        ([(0, 1), (0, 1)], False),
        ([(0, 2), (1, 4)], False),
        ([(0, 4), (1, 4)], False),
        ([(0, 2), (1, 2), (1, 2)], False),
        ([(0, 3), (1, 3), (1, 3)], False),
    ],
)
def test_processes_that_are_numbered_by_hand(numbers: list[tuple[int, int]], is_right: bool) -> None:
    """Each part of the data is one process's own, from the first save or load on; otherwise all of them say so."""

    def saves(number: int, all_gather: Any) -> None:
        rank, size = numbers[number]
        options = {"data_parallel_rank": rank, "data_parallel_size": size}
        Loader(range(64), batch_size=2, agreement=all_gather, **options).state_dict()

    def loads(number: int, all_gather: Any) -> None:
        rank, size = numbers[number]
        options = {"data_parallel_rank": rank, "data_parallel_size": size}
        Loader(range(64), batch_size=2, agreement=all_gather, **options).load_state_dict({"consumed_samples": 24})

    expected = ["fine" if is_right else "AgreementError"] * len(numbers)
    assert expected == outcomes(len(numbers), saves) == outcomes(len(numbers), loads)


@dataclass
class Place:
    """A process's ranks, as a topology of several kinds of parallelism gives them."""

    data_parallel_rank: int
    data_parallel_size: int


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_model_parallel_processes_share_a_rank(size: int, times: int, data: st.DataObject) -> None:
    """A topology may give a rank to several processes, to each rank as many; one that is missing is found."""
    parts = data.draw(st.permutations([Part(rank, size, False) for rank in range(size) for _ in range(times)]))
    check_agreement([record_of(STATE, part) for part in parts])
    if size > 1:
        other = (parts[0].rank + 1) % size
        wrong = [part._replace(rank=other if part.rank == parts[0].rank else part.rank) for part in parts]
        with pytest.raises(AgreementError, match="do not share out the data"):
            check_agreement([record_of(STATE, part) for part in wrong])


def test_what_is_said_of_wrong_parts() -> None:
    """The first processes with their numbers, however many there are; and the error survives pickling."""
    with pytest.raises(AgreementError) as caught:
        check_agreement([record_of(STATE, Part(0, 1, True))] * 4096)
    lines = str(caught.value).splitlines()
    assert "  processes: 4096" == lines[1]
    assert "  process 0: 'data_parallel_rank=0 data_parallel_size=1'" == lines[2]
    assert 11 == len(lines)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_a_topology_in_a_loader() -> None:
    """Two processes of one rank, as `ranks=` gives it, agree."""

    def saves(number: int, all_gather: Any) -> None:
        Loader(range(64), batch_size=2, ranks=Place(number // 2, 2), agreement=all_gather).state_dict()

    assert ["fine"] * 4 == outcomes(4, saves)


class Unreadable(Mapping[str, Any]):
    """A state that fails wherever it is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, key: str) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[str]:
        raise self.error

    def __len__(self) -> int:
        raise self.error


@settings(max_examples=30)
@given(
    st.text(min_size=1),
    st.integers(1, 700),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
)
def test_whatever_a_rank_fails_with(words: str, times: int, name: str) -> None:
    """The others are told, in a record that they can read."""
    error = type(name * times, (RuntimeError,), {})(words * times)

    def loads(number: int, all_gather: Any) -> None:
        ResumptionState(agreement=all_gather).load_state_dict(Unreadable(error) if number else {"consumed_samples": 8})

    assert ["AgreementError", name * times] == outcomes(2, loads)


texts = st.text(max_size=200)


@given(texts, st.none() | texts, st.integers(0, 10**700), st.integers(0, 2**64))
def test_every_record_is_of_one_length_and_can_be_read(kind: str, canary: str | None, count: int, seed: int) -> None:
    """Whatever the names and numbers are, records of one state agree and those of others do not."""
    state = {**STATE, "global_step": count, "canary": canary, "order": [kind, 8, seed]}
    mine, part = record_of(state, Part(0, 2, True)), Part(1, 2, True)
    assert RECORD_BYTES == len(mine)
    check_agreement([mine, record_of(dict(state), part)])
    for other in ({**state, "order": [kind + "!", 8, seed]}, {**state, "global_step": count + 1}):
        with pytest.raises(AgreementError, match="disagree on the position"):
            check_agreement([mine, record_of(other, part)])


@given(st.binary(max_size=600))
def test_a_record_that_is_none(record: bytes) -> None:
    """Another program's bytes, or those of another version, disagree; they are shown as they are."""
    with pytest.raises(AgreementError):
        check_agreement([record_of(STATE), record])
    with pytest.raises(AgreementError):
        check_agreement([record_of(STATE, Part(0, 2, True)), b'{"all": 1, "part": ' + record])
