"""What was not trained exactly once is found, and named by the first sample, its index and its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resumable import ResumableLoader, ResumptionWarning, Shuffled
from resumable.audit import Fault, faults_of, read_records, runs_of

LENGTH = 100


def loader_of(folder: Path | None, *, rank: int = 0, ranks: int = 1, **options: Any) -> ResumableLoader[Any]:
    """A loader over as many numbers as there are samples."""
    options = {"shuffle": True, "seed": 3, **options}
    dataset = options.pop("dataset", range(LENGTH))
    return ResumableLoader(
        dataset, 5, audit=folder, data_parallel_rank=rank, data_parallel_size=ranks, **options
    )  # fmt: skip


def train(loader: ResumableLoader[Any], batches: int) -> dict[str, Any]:
    """Train *batches* batches, over the ends of epochs, and save."""
    endless = loader.forever()
    for _ in range(batches):
        next(endless)
    return loader.state_dict()


def state_after(batches: int, **options: Any) -> dict[str, Any]:
    """The state of a run without an audit."""
    return train(loader_of(None, **options), batches)


def go_on(folder: Path | None, state: dict[str, Any], batches: int, **options: Any) -> dict[str, Any]:
    """Train *batches* batches more, from *state*, in a session of its own."""
    loader = loader_of(folder, **options)
    loader.load_state_dict(state)
    return train(loader, batches)


def first_fault(folder: Path) -> Fault:
    """The first fault of the one run in *folder*."""
    (run,) = runs_of(read_records(folder))
    return faults_of(run)[0]


def index_at(place: int, epoch: int = 0, seed: int = 3) -> int:
    """What the run's order has at *place*."""
    return int(Shuffled(LENGTH, seed).indices(epoch, place, place + 1)[0])


def test_a_gap_between_two_sessions(tmp_path: Path) -> None:
    """A session that goes on further on than any has trained: what lies between was lost."""
    train(loader_of(tmp_path), 7)
    go_on(tmp_path, state_after(9), 3)
    fault = first_fault(tmp_path)
    assert ("lost", 35, 0, 35, index_at(35), 10) == (
        fault.kind,
        fault.sample,
        fault.epoch,
        fault.place,
        fault.index,
        fault.samples,
    )
    assert (
        f"The sample at place 35 of epoch 0 (index {index_at(35)}), the first of 10 samples, was never trained"
        in str(fault)
    )


def test_a_gap_over_the_end_of_an_epoch(tmp_path: Path) -> None:
    """A gap in a later epoch is named in its order."""
    train(loader_of(tmp_path), 20)
    go_on(tmp_path, state_after(23), 3)
    fault = first_fault(tmp_path)
    assert ("lost", 100, 1, 0, index_at(0, epoch=1)) == (
        fault.kind,
        fault.sample,
        fault.epoch,
        fault.place,
        fault.index,
    )


def test_another_order_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Of two orders in one epoch, the first sample that comes again is named, and the first that never comes."""
    state = train(loader_of(tmp_path), 7)
    with pytest.warns(ResumptionWarning, match="The order has another seed"):
        go_on(tmp_path, state, 3, seed=4, on_mismatch="warn")
    trained = set(Shuffled(LENGTH, 3).indices(0, 0, 35).tolist())
    rest = Shuffled(LENGTH, 4).indices(0, 35, LENGTH).tolist()
    (run,) = runs_of(read_records(tmp_path))
    found = {fault.kind: fault.index for fault in faults_of(run)}
    again = next(index for index in rest if index in trained)
    lost = next(index for index in range(LENGTH) if index not in trained | set(rest))
    assert {"repeated": again, "lost": lost} == found


def test_another_order_from_an_epochs_start_on(tmp_path: Path) -> None:
    """Between two epochs an order may change: each has all samples once."""
    state = train(loader_of(tmp_path), 20)
    with pytest.warns(ResumptionWarning, match="The order has another seed"):
        go_on(tmp_path, state, 3, seed=4, on_mismatch="warn")
    (run,) = runs_of(read_records(tmp_path))
    assert [] == faults_of(run)


def test_a_rank_that_stayed_behind(tmp_path: Path) -> None:
    """Where a rank was not given what the next session takes for trained, its first sample is named."""
    ahead, _ = (train(loader_of(tmp_path, rank=rank, ranks=2), batches) for rank, batches in ((0, 8), (1, 4)))
    for rank in range(2):
        go_on(tmp_path, ahead, 2, rank=rank, ranks=2)
    fault = first_fault(tmp_path)
    assert ("lost", 45, index_at(45)) == (fault.kind, fault.place, fault.index)
    assert "rank 1 of 2" in fault.why


def test_a_rank_without_a_record(tmp_path: Path) -> None:
    """A rank whose file is gone has proven nothing."""
    train(loader_of(tmp_path, rank=1, ranks=2), 4)
    fault = first_fault(tmp_path)
    assert ("unknown", 0, index_at(0)) == (fault.kind, fault.place, fault.index)
    assert "rank 0 of 2 has left no record" in fault.why


def test_a_session_without_a_record(tmp_path: Path) -> None:
    """An audit that begins in the middle of a run proves nothing of what was before."""
    go_on(tmp_path, state_after(9), 3)
    fault = first_fault(tmp_path)
    assert ("unknown", 0, 45) == (fault.kind, fault.place, fault.samples)
    assert "the audit begins at sample 45" in fault.why


class Torn:
    """A dataset with a sample that cannot be read."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        if index == 17:
            raise OSError("torn")
        return index


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_batch_that_could_not_be_loaded(num_workers: int, tmp_path: Path) -> None:
    """A loop that goes on after an error has left a batch out: each of its samples was lost."""
    loader = loader_of(tmp_path, dataset=Torn(), num_workers=num_workers)
    batches = iter(loader)
    with pytest.raises(OSError, match="torn"):
        list(batches)
    list(batches)
    place = Shuffled(LENGTH, 3).place_of(0, 17) // 5 * 5
    fault = first_fault(tmp_path)
    assert ("lost", place, index_at(place), 5) == (fault.kind, fault.place, fault.index, fault.samples)


def test_a_place_that_no_session_reaches(tmp_path: Path) -> None:
    """A count that is right at a place that is wrong: an epoch was left early."""
    state = train(loader_of(tmp_path), 7)
    moved: dict[str, Any] = {**state, "epoch": 1, "offset": 15, "canary": None, "ledger": []}
    go_on(tmp_path, moved, 3)
    fault = first_fault(tmp_path)
    assert ("lost", 35, 0, 35) == (fault.kind, fault.sample, fault.epoch, fault.place)


def test_an_order_that_only_the_user_knows(tmp_path: Path) -> None:
    """Where only the user's code knows the order, the place is named without an index."""

    class Own:
        def __len__(self) -> int:
            return LENGTH

        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            return Shuffled(LENGTH, 9).indices(epoch, start, stop)

    train(loader_of(tmp_path, shuffle=False, seed=None, order=Own()), 4)
    go_on(tmp_path, state_after(9, shuffle=False, seed=None, order=Own()), 1, shuffle=False, seed=None, order=Own())
    fault = first_fault(tmp_path)
    assert (20, None) == (fault.place, fault.index)
    assert "(index unknown)" in str(fault)
