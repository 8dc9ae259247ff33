"""`ResumableLoader`: a torch DataLoader that goes on with the exact next sample, in any loop."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from resumable import (
    ConfigurationError,
    LinearRampup,
    MismatchError,
    Position,
    ResumptionError,
    ResumptionWarning,
    Sequential,
)
from tests.support.reference import Loader, Reference, batches_of, order_of, whole

N, SIZE, EPOCHS = 11, 4, 3
"""Samples, batch size and epochs of the runs here: three batches an epoch, the last one short."""
WITH_WORKERS: dict[str, Any] = {"num_workers": 2, "prefetch_factor": 4}


def loader_of(n: int = N, *, batch_size: int | None = SIZE, seed: int | None = 5, **options: Any) -> Any:
    """A shuffled loader over *n* numbers."""
    return Loader(range(n), batch_size=batch_size, shuffle=True, seed=seed, **options)


def expected(n: int = N, *, batch_size: int = SIZE, drop_last: bool = False, epochs: int = EPOCHS) -> list[list[int]]:
    """The batches of the uninterrupted run."""
    reference = Reference(order_of(n, shuffle=True, seed=5))
    found: list[list[int]] = []
    while reference.epoch < epochs:
        found.append(reference.take(batch_size, drop_last=drop_last))
    return found


def restarted(state: dict[str, Any], **options: Any) -> Any:
    """A loader as a new process has it, with what was saved as JSON."""
    loader = loader_of(**options)
    loader.load_state_dict(json.loads(json.dumps(state)))
    return loader


def cut(loader: Any, batches: int) -> tuple[list[list[int]], dict[str, Any]]:
    """The first *batches* batches of a run, over as many epochs as it takes, and the state behind the last."""
    state = loader.state_dict()
    run = batches_of(loader, EPOCHS)
    taken: list[list[int]] = []
    for batch in islice(run, batches):
        taken.append(batch)
        state = loader.state_dict()
    return taken, state


# Exact at every cut.


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batches", range(10))
def test_every_cut_of_a_run(batches: int, drop_last: bool) -> None:
    """Saved behind any batch, in mid-epoch or at its end, a new process yields the rest, batch by batch."""
    behind, state = cut(loader_of(drop_last=drop_last), batches)
    rest = list(batches_of(restarted(state, drop_last=drop_last), EPOCHS))
    assert expected(drop_last=drop_last) == behind + rest


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("before", "after"), [(WITH_WORKERS, {}), ({}, WITH_WORKERS), (WITH_WORKERS, WITH_WORKERS)])
def test_cuts_with_workers(before: dict[str, Any], after: dict[str, Any], persistent: bool) -> None:
    """What workers have prefetched counts for nothing, and their number may change."""
    for batches in (1, 3, 5):
        first, second = ({**o, "persistent_workers": persistent and bool(o)} for o in (before, after))
        behind, state = cut(loader_of(**first), batches)
        assert sum(map(len, behind)) == state["consumed_samples"]
        assert expected() == behind + list(batches_of(restarted(state, **second), EPOCHS))


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_short_epochs(n: int) -> None:
    """Epochs of one batch, and of a batch larger than the dataset."""
    for batches in range(len(expected(n))):
        behind, state = cut(loader_of(n), batches)
        assert expected(n) == behind + list(batches_of(restarted(state, n=n), EPOCHS))


def test_several_resumes_in_one_epoch() -> None:
    """The third resume is as exact as the first."""
    taken: list[list[int]] = []
    state = loader_of(40).state_dict()
    for _ in range(4):
        more, state = cut(restarted(state, n=40), 2)
        taken += more
    assert expected(40) == taken + list(batches_of(restarted(state, n=40), EPOCHS))


@pytest.mark.parametrize("size", [1, 7, 1000, 5000, 20_000])
@pytest.mark.parametrize("offset", [0, 1, 1023, 30_000])
def test_long_epochs(offset: int, size: int) -> None:
    """Indices are drawn in blocks, and where one block ends and the next begins is not to be seen."""
    n = 50_000
    loader = loader_of(n, batch_size=size)
    loader.load_state_dict({"consumed_samples": offset})
    loader.collate_fn = list
    batches = [index for batch in loader for index in batch]
    assert order_of(n, shuffle=True, seed=5).indices(0, offset, n).tolist() == batches


def test_saving_after_every_batch_moves_nothing() -> None:
    """A run that saves is the run that does not."""
    loader = loader_of()
    taken: list[list[int]] = []
    for batch in batches_of(loader, EPOCHS):
        assert loader.state_dict() == loader.state_dict()
        taken.append(batch)
    assert expected() == taken


@pytest.mark.parametrize("size", [1, 3, 6, 50])
@pytest.mark.parametrize("batches", [2, 3, 4])
def test_another_batch_size(batches: int, size: int) -> None:
    """Other batches of the same samples in the same order, from mid-epoch and from a boundary, for all later epochs."""
    behind, state = cut(loader_of(), batches)
    loader = restarted(state, batch_size=size)
    assert "regrouped" == loader.state.verdict.outcome
    assert "Another micro batch size.\n  saved:   4\n  current: " + str(size) in str(loader.state.verdict)
    reference = Reference(order_of(N, shuffle=True, seed=5), *vars_of(loader.state.position))
    after = list(batches_of(loader, EPOCHS))
    assert [reference.take(size) for _ in after] == after
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS) == [i for batch in behind + after for i in batch]


def vars_of(position: Position) -> tuple[int, int, int]:
    """A position's three numbers."""
    return position.consumed_samples, position.epoch, position.offset


def test_positions_along_a_run() -> None:
    """Consumed samples, epoch and offset after each batch; the end of an epoch is the start of the next."""
    loader = loader_of()
    places = [vars_of(loader.state.position)]
    places += [vars_of(loader.state.position) for _ in batches_of(loader, 2)]
    reference = Reference(order_of(N, shuffle=True))
    walked = [reference.place()]
    for _ in range(6):
        reference.take(SIZE)
        walked.append(reference.place())
    assert walked == places


def test_the_length_is_that_of_a_whole_epoch() -> None:
    """`len` does not shrink in a resumed epoch, so progress bars stay right."""
    _, state = cut(loader_of(), 2)
    assert [3, 3, 2, 11] == [
        len(loader_of()), len(restarted(state)), len(loader_of(drop_last=True)), len(loader_of(batch_size=None)),
    ]  # fmt: skip


# In any loop.


def test_the_epoch_is_the_next_passs() -> None:
    """`range(loader.epoch, epochs)` covers what is left: in mid-epoch the present one, behind its end the next."""
    epochs = [restarted(cut(loader_of(), batches)[1]).epoch for batches in range(7)]
    assert [0, 0, 0, 1, 1, 1, 2] == epochs
    assert EPOCHS == restarted(cut(loader_of(), 9)[1]).epoch


@pytest.mark.parametrize("options", [{}, WITH_WORKERS, {**WITH_WORKERS, "persistent_workers": True}], ids=str)
@pytest.mark.parametrize("behind", [0, 1, 3])
def test_peeking_loses_nothing(options: dict[str, Any], behind: int) -> None:
    """`next(iter(loader))` before the loop, fresh or resumed, shows the next batch and moves nothing."""
    loader = restarted(cut(loader_of(), behind)[1], **options)
    peeked = next(iter(loader)).tolist()
    rest = list(batches_of(loader, EPOCHS))
    assert peeked == rest[0]
    assert expected()[behind:] == rest


@pytest.mark.parametrize("n", [3, 4, 11])
def test_peeking_does_not_move_the_epoch(n: int) -> None:
    """Where the peeked batch is the only one of its epoch, too, the loop trains every epoch."""
    loader = loader_of(n)
    next(iter(loader))
    assert 0 == loader.epoch
    assert expected(n) == list(batches_of(loader, EPOCHS))


def test_peeking_in_a_loop_that_commits() -> None:
    """What is not committed is not trained, however much of it was looked at."""
    loader = loader_of()
    loader.state.commit()
    assert expected()[:2] == [batch.tolist() for batch in islice(loader, 2)]
    assert Position() == loader.state.position
    assert expected() == list(batches_of(loader, EPOCHS))


def test_iterators_that_are_never_used() -> None:
    """An `iter()` that nobody advances moves nothing."""
    loader = loader_of()
    first, second = iter(loader), iter(loader)
    del first, second
    assert Position() == loader.state.position
    assert expected() == list(batches_of(loader, EPOCHS))


@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_of_two_live_iterators_the_later_one_counts(options: dict[str, Any]) -> None:
    """The later one goes on where the first stood, and what the first still yields counts for nothing."""
    loader = loader_of(**options)
    first = iter(loader)
    taken = [next(first).tolist(), next(first).tolist()]
    second = iter(loader)
    taken.append(next(second).tolist())
    place = loader.state.position
    assert expected()[2] == next(first).tolist()
    assert place == loader.state.position
    assert expected()[:3] == taken
    assert Position(11, 1, 0) == place


@pytest.mark.parametrize("options", [{}, WITH_WORKERS, {**WITH_WORKERS, "persistent_workers": True}], ids=str)
def test_break_save_and_go_on(options: dict[str, Any]) -> None:
    """A loop that is left and entered again goes on, in one process as in two, after one batch too if it was saved."""
    loader = loader_of(**options)
    taken: list[list[int]] = []
    state = loader.state_dict()
    for batches in (2, 1, 2, 1):
        for number, batch in enumerate(loader, start=1):
            taken.append(batch.tolist())
            state = loader.state_dict()
            if number == batches:
                break
    assert expected()[:6] == taken
    rest = list(batches_of(restarted(state), EPOCHS))
    assert expected()[6:] == rest == list(batches_of(loader, EPOCHS))


def test_islice() -> None:
    """So many batches at a time, whoever counts them."""
    loader = loader_of(23)
    taken = [batch.tolist() for _ in range(3) for batch in islice(loader, 2)]
    assert expected(23)[:6] == taken
    assert expected(23)[6:] == list(batches_of(loader, EPOCHS))


def test_an_exception_without_commits() -> None:
    """A batch that was yielded counts as trained, as the README says."""
    loader = loader_of()
    with pytest.raises(RuntimeError, match="in the step"):
        train_until(loader, 2)
    assert Position(8, 0, 8) == loader.state.position
    assert expected()[2:] == list(batches_of(loader, EPOCHS))


def train_until(loader: Any, batches: int, *, commits_every: int = 0) -> None:
    """A loop whose step fails with batch number *batches*."""
    for number, _ in enumerate(loader, start=1):
        if number == batches:
            raise RuntimeError("in the step")
        if commits_every and number % commits_every == 0:
            loader.state.commit()


@pytest.mark.parametrize(
    ("commits_every", "fails_at", "trained", "options"),
    [
        *((*numbers, {}) for numbers in [(1, 1, 0), (1, 3, 2), (2, 2, 0), (2, 4, 2), (2, 6, 4), (3, 6, 3)]),
        (2, 4, 2, WITH_WORKERS),
    ],
)
def test_an_exception_with_commits(commits_every: int, fails_at: int, trained: int, options: dict[str, Any]) -> None:
    """Only whole accumulation windows are trained, in the same process and in the next."""
    loader = loader_of(40, **options)
    loader.state.commit()
    with pytest.raises(RuntimeError, match="in the step"):
        train_until(loader, fails_at, commits_every=commits_every)
    state = loader.state_dict()
    assert trained * SIZE == state["consumed_samples"]
    for again in (restarted(state, n=40), loader):
        assert expected(40)[trained:] == list(batches_of(again, EPOCHS))


def test_whoever_commits_commits_in_resumed_runs_too() -> None:
    """The saved state knows it: in the next session nothing counts before its first commit."""
    loader = loader_of()
    loader.state.commit()
    loader = restarted(loader.state_dict())
    for _ in islice(loader, 2):
        pass
    assert Position() == loader.state.position


@pytest.mark.parametrize("state", [{"consumed_samples": 8}, cut(loader_of(), 2)[1]], ids=["bare", "whole"])
def test_a_commit_before_the_loop_outlasts_a_load(state: dict[str, Any]) -> None:
    """It holds from the first call on: a state of a loop that did not commit takes nothing of it back."""
    loader = loader_of()
    loader.state.commit()
    loader.load_state_dict(state)
    for _ in islice(loader, 1):
        pass
    assert Position(8, 0, 8) == loader.state.position


def test_an_accumulation_window_across_the_end_of_an_epoch() -> None:
    """Uncommitted batches of the last epoch come again after a kill, and do not after a commit in the next."""
    loader = loader_of()
    loader.state.commit()
    states: list[dict[str, Any]] = []
    for number, _ in enumerate(islice(batches_of(loader, EPOCHS), 4), start=1):
        if number % 2 == 0:
            loader.state.commit()
        states.append(loader.state_dict())
    assert [0, 8, 8, 15] == [state["consumed_samples"] for state in states]
    assert expected()[2:] == list(batches_of(restarted(states[2]), EPOCHS))
    assert expected()[4:] == list(batches_of(restarted(states[3]), EPOCHS))


def test_the_epoch_after_an_uncommitted_end() -> None:
    """`epoch` tells the next pass: where a window is left open at an epoch's end, that is the next epoch."""
    loader = loader_of()
    loader.state.commit()
    assert 3 == len(list(loader))
    assert (1, Position()) == (loader.epoch, loader.state.position)
    assert expected()[3:] == list(batches_of(loader, EPOCHS))


# DataLoader's own options.


def double(batch: list[int]) -> list[int]:
    """A collate function."""
    return [2 * index for index in batch]


class Marked(Dataset[tuple[int, int]]):
    """Samples that carry what `worker_init_fn` left in the worker."""

    mark = -1

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, Marked.mark


def mark(worker: int) -> None:
    """A `worker_init_fn`."""
    Marked.mark = worker


def test_collate_fn() -> None:
    """Samples are collated as the user says."""
    loader = loader_of(collate_fn=double)
    assert [[2 * index for index in batch] for batch in expected()[:3]] == list(loader)


def test_worker_init_fn() -> None:
    """Workers are set up as the user says, and their batches come in order."""
    loader = Loader(Marked(), batch_size=SIZE, shuffle=True, seed=5, num_workers=2, worker_init_fn=mark)
    batches = list(loader)
    assert expected()[:3] == [indices.tolist() for indices, _ in batches]
    assert [{0}, {1}, {0}] == [set(marks.tolist()) for _, marks in batches]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found:UserWarning")
@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_pin_memory(options: dict[str, Any]) -> None:
    """Pinning, or its lack of an accelerator, changes no batch."""
    behind, state = cut(loader_of(pin_memory=True, **options), 2)
    assert expected() == behind + list(batches_of(restarted(state, pin_memory=True, **options), EPOCHS))


def test_batches_of_none() -> None:
    """`batch_size=None` yields single samples as the dataset gives them, and cuts between any two."""
    loader = loader_of(batch_size=None)
    taken: list[int] = list(islice(loader, 5))
    assert whole(order_of(N, shuffle=True, seed=5), 1)[:5] == taken
    again = restarted(loader.state_dict(), batch_size=None)
    rest = [sample for _ in range(2) for sample in again]
    assert whole(order_of(N, shuffle=True, seed=5), 2) == taken + rest


def test_batches_in_any_order_are_refused() -> None:
    """With `in_order=False` batches come as workers finish: which ones were trained, no count could tell."""
    with pytest.raises(ConfigurationError, match="in_order"):
        loader_of(in_order=False, **WITH_WORKERS)


class Backwards:
    """An order of one's own."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __repr__(self) -> str:
        return f"Backwards({self.n})"

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """From the end, begun one further in each epoch."""
        return (self.n - 1 - np.arange(start, stop) + epoch) % self.n


def test_an_order_of_ones_own() -> None:
    """Any pure function of (epoch, start, stop) is resumed as exactly; its class names it."""
    reference = Reference(Backwards(N))
    loader = Loader(range(N), batch_size=SIZE, order=Backwards(N))
    taken = [batch.tolist() for batch in islice(loader, 2)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert ["Backwards", N, None] == state["order"]
    loader = Loader(range(N), batch_size=SIZE, order=Backwards(N))
    loader.load_state_dict(state)
    taken += batches_of(loader, EPOCHS)
    assert [reference.take(SIZE) for _ in taken] == taken
    with pytest.raises(
        MismatchError, match=r"The order is of another kind\.\n  saved:   'Backwards'\n  current: 'shuff"
    ):
        loader_of(seed=None).load_state_dict(state)


class Miscounting(Backwards):
    """An order that gives fewer or more indices than it is asked for."""

    def __init__(self, n: int, by: int) -> None:
        super().__init__(n)
        self.by = by

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """Wrong by a few."""
        return np.arange(start, stop + self.by)


@pytest.mark.parametrize("by", [-3, 1])
def test_an_order_that_gives_another_number_of_indices(by: int) -> None:
    """A place in such an order would be wrong in silence: it is an error."""
    with pytest.raises(ResumptionError, match="order"):
        list(Loader(range(N), batch_size=SIZE, order=Miscounting(N, by)))


@pytest.mark.parametrize("seed", [np.int64(3), "three", -1, 2**64, 1.5, True])
def test_an_orders_seed_that_could_not_be_saved(seed: Any) -> None:
    """What is saved can be loaded: a NumPy seed is saved as an int, any other is refused when the loader is built."""
    order = Backwards(N)
    cast("Any", order).seed = seed
    if isinstance(seed, np.integer):
        loader = Loader(range(N), order=order)
        assert [3] == json.loads(json.dumps(loader.state_dict()))["order"][2:]
        return
    with pytest.raises(ConfigurationError, match="seed"):
        Loader(range(N), order=order)


def test_a_copy_of_a_loader_counts_for_itself() -> None:
    """A deep copy, or a pickle that went to another process, stands where its original stood and goes its own way."""
    loader = loader_of()
    for _ in islice(loader, 2):
        pass
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert loader.state_dict() == twin.state_dict()
        for _ in islice(twin, 2):
            pass
        assert (8, 11) == (loader.state.consumed_samples, twin.state.consumed_samples)


def test_torchs_random_stream_decides_nothing() -> None:
    """The order depends on the seed alone, whatever was drawn before."""
    torch.manual_seed(1)
    one = list(batches_of(loader_of(), 1))
    torch.manual_seed(2)
    assert one == list(batches_of(loader_of(), 1)) == expected()[:3]


# What is loaded.


@pytest.mark.parametrize("consumed", range(0, 34, 4))
def test_a_bare_count(consumed: int) -> None:
    """Epoch and offset follow from the samples and the dataset's length, and the rest of the run from those."""
    loader = restarted({"consumed_samples": consumed})
    assert Position(consumed, *divmod(consumed, N)) == loader.state.position
    rest = [index for batch in batches_of(loader, EPOCHS) for index in batch]
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS)[consumed:] == rest


def test_a_bare_count_without_short_batches() -> None:
    """Where the short last batch is left out, an epoch consumes less than the dataset holds."""
    loader = restarted({"consumed_samples": 12}, drop_last=True)
    assert Position(12, 1, 4) == loader.state.position
    assert expected(drop_last=True)[3:] == list(batches_of(loader, EPOCHS))


def test_a_seed_that_nobody_gave_is_taken_over() -> None:
    """A resumed run need not know the seed that it began with."""
    behind, state = cut(loader_of(seed=5), 2)
    loader = restarted(state, seed=None)
    assert "exact" == loader.state.verdict.outcome
    assert expected() == behind + list(batches_of(loader, EPOCHS))
    assert 5 == loader.state_dict()["order"][-1]


def test_another_seed_is_refused_by_name() -> None:
    """A seed given on purpose that contradicts the saved one is an error with both, and nothing is loaded."""
    _, state = cut(loader_of(seed=5), 2)
    loader = loader_of(seed=6)
    before = loader.state_dict()
    with pytest.raises(MismatchError) as caught:
        loader.load_state_dict(state)
    assert [
        "This state cannot go on exactly: not exact",
        "The order has another seed.",
        "  saved:   5",
        "  current: 6",
        "  Pass seed=5, or pass no seed: the saved one is taken over.",
        'Nothing was loaded. To go on all the same, pass on_mismatch="warn", or "adopt" to take over what was saved.',
    ] == str(caught.value).splitlines()
    assert before == loader.state_dict()
    assert whole(order_of(N, shuffle=True, seed=6), 1)[:4] == next(iter(loader)).tolist()
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_going_on_with_another_seed() -> None:
    """Under "warn" the run goes on at its place in its own order, and says so; the warning points at the user's line."""
    _, state = cut(loader_of(seed=5), 2)
    loader = loader_of(seed=6, on_mismatch="warn")
    with pytest.warns(ResumptionWarning, match="this resume is not exact\nThe order has another seed") as caught:
        loader.load_state_dict(state)
    assert __file__ == caught[0].filename
    assert whole(order_of(N, shuffle=True, seed=6), 1)[8:] == next(iter(loader)).tolist()


@pytest.mark.parametrize("current", [{"seed": 6}, {"shuffle": False}, {"order": Backwards(N)}], ids=str)
def test_adopting_the_saved_order(current: dict[str, Any]) -> None:
    """Under "adopt" the saved order wins over the seed, the shuffling or the order that was given."""
    behind, state = cut(loader_of(seed=5), 2)
    loader = Loader(range(N), batch_size=SIZE, on_mismatch="adopt", **{"shuffle": "order" not in current, **current})
    loader.load_state_dict(state)
    assert expected() == behind + list(batches_of(loader, EPOCHS))


def test_an_order_that_cannot_be_adopted() -> None:
    """An order of one's own is not in the saved state: it has to be passed."""
    state = Loader(range(N), order=Backwards(N)).state_dict()
    loader = loader_of(on_mismatch="adopt")
    before = loader.state_dict()
    with pytest.raises(MismatchError, match="The saved order cannot be taken over") as caught:
        loader.load_state_dict(state)
    assert "kind='Backwards'" in str(caught.value)
    assert "kind='shuffled'" in str(caught.value)
    assert before == loader.state_dict()


@pytest.mark.parametrize(("n", "outcome"), [(7, "refused"), (8, "inexact"), (20, "inexact")])
@pytest.mark.parametrize("on_mismatch", ["error", "warn", "adopt"])
def test_a_dataset_of_another_length(n: int, outcome: str, on_mismatch: Any) -> None:
    """It is never gone on with in silence, and not at all where the place lies behind its end."""
    _, state = cut(loader_of(), 2)
    loader = loader_of(n, on_mismatch=on_mismatch)
    if outcome == "refused" or on_mismatch == "error":
        with pytest.raises(
            MismatchError, match=f"The dataset has another length.\n  saved:   11\n  current: {n}\n"
        ) as e:
            loader.load_state_dict(state)
        assert Position() == loader.state.position
        assert outcome == loader.state.verdict.outcome
        assert loader.state.verdict == e.value.verdict == pickle.loads(pickle.dumps(e.value)).verdict
        return
    with pytest.warns(ResumptionWarning, match="The dataset has another length"):
        loader.load_state_dict(state)
    assert outcome == loader.state.verdict.outcome
    assert Position(8, *divmod(8, n)) == loader.state.position


def test_loading_while_iterating() -> None:
    """Batches that are on their way know nothing of a loaded place: the load is refused and moves nothing."""
    _, state = cut(loader_of(), 4)
    loader = loader_of()
    taken: list[list[int]] = []
    for batch in loader:
        taken.append(batch.tolist())
        with pytest.raises(ResumptionError, match="A state cannot be loaded while the loader is being iterated") as e:
            loader.load_state_dict(state)
        assert f"position: {loader.state.position}" in str(e.value)
        assert "Load it before the loop, or leave the loop first. Nothing was loaded." in str(e.value)
    assert expected()[:3] == taken
    loader.load_state_dict(state)
    assert expected()[4:] == list(batches_of(loader, EPOCHS))


@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_loading_after_training_began(options: dict[str, Any]) -> None:
    """Between two passes a loop may go back, or forward, to any saved place."""
    states = [cut(loader_of(), batches)[1] for batches in range(9)]
    loader = loader_of(**options)
    for batches in (5, 2, 8):
        for _ in islice(loader, 2):
            pass
        loader.load_state_dict(states[batches])
        assert states[batches] == loader.state_dict()
        assert expected()[batches] == next(iter(loader)).tolist()


def test_the_ledger_of_a_run_that_changes() -> None:
    """One stretch for each configuration that trained, none for a change that trained nothing."""
    _, state = cut(loader_of(), 2)
    for size, batches in [(3, 0), (3, 2), (3, 1), (4, 0), (4, 1)]:
        _, state = cut(restarted(state, batch_size=size), batches)
    assert [(0, 0, 4), (2, 8, 3), (5, 17, 4)] == [
        (step, sample, micro) for step, sample, _, _, _, micro, *_ in state["ledger"]
    ]
    ledger = restarted(state).state.ledger
    assert [0, 4, 8, 11, 14, 17, 21] == [ledger.consumed_samples_at(step) for step in range(7)]


# Bad arguments.


class Stream(IterableDataset[int]):
    """A dataset without places."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(N))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "batch size 0": (
        {"batch_size": 0},
        "batch_size is too small.\n  batch_size: 0\n  least:      1\nPass batch_size >= 1.",
    ),
    "batch size -1": ({"batch_size": -1}, "batch_size is too small.\n  batch_size: -1\n"),
    "batch size 1.5": (
        {"batch_size": 1.5},
        "batch_size must be a whole number.\n  batch_size: 1.5\n  type:       'float'\nPass batch_size as an int.",
    ),
    "batch size True": ({"batch_size": True}, "batch_size must be a whole number.\n  batch_size: True\n"),
    "batch size as text": ({"batch_size": "4"}, "batch_size must be a whole number.\n  batch_size: '4'\n"),
    "no samples": ({"dataset": []}, "An order needs at least one sample.\n  n: 0\nPass a dataset that is not empty."),
    "too many samples": ({"dataset": range(2**61)}, "An order this long is not supported."),
    "a stream": ({"dataset": Stream()}, "A ResumableLoader needs a map-style dataset"),
    "a generator": ({"dataset": (i for i in range(3))}, "needed: '__getitem__ and __len__'\n  got:    'generator'\n"),
    "no whole batch": (
        {"batch_size": N + 1, "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 11\n  batch size:     12\n",
    ),
    "a negative seed": ({"shuffle": True, "seed": -1}, "A seed must fit into 64 bits."),
    "a negative seed that nobody uses": ({"seed": -1}, "A seed must fit into 64 bits."),
    "a fractional seed": (
        {"shuffle": True, "seed": 1.5},
        "seed must be a whole number.\n  seed: 1.5\n  type: 'float'\n",
    ),
    "order and shuffle": ({"order": Sequential(N), "shuffle": True}, "A user-defined order decides itself how it shuf"),
    "order and seed": ({"order": Sequential(N), "seed": 1}, "Pass either order=, or shuffle= and seed=."),
    "another order's length": (
        {"order": Sequential(9)},
        "  len(order):   9\n  len(dataset): 11\nMake the order as long",
    ),
    "an order that is none": ({"order": [0] * N}, "order"),
    "a sampler": (
        {"sampler": [3, 1]},
        "A ResumableLoader takes no sampler: a sampler always begins at its first index.\n"
        "  sampler: [3, 1]\nPass order=, a pure function",
    ),
    "a batch sampler": ({"batch_sampler": [[3, 1]]}, "  batch_sampler: [[3, 1]]\nPass order="),
    "a schedule's class": ({"schedule": LinearRampup}, "schedule= lacks the methods of a BatchSchedule."),
    "an unknown policy": (
        {"on_mismatch": "skip"},
        "An unknown policy.\n  on_mismatch: 'skip'\nPass 'error', 'warn' or",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(what: str) -> None:
    """Each is said when the loader is built, with its value and what to pass instead, and survives pickling."""
    arguments, message = BAD[what]
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        Loader(**{"dataset": range(N), **arguments})
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_a_numpy_batch_size_is_a_batch_size() -> None:
    """A whole number of NumPy's is taken, as orders take it."""
    loader = Loader(range(N), batch_size=np.int64(4))
    assert int is type(loader.state_dict()["consumed_samples"])
    for _ in islice(loader, 2):
        pass
    assert 4 == json.loads(json.dumps(loader.state_dict()))["ledger"][0][5]
