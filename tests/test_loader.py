"""`ResumableLoader`: a torch DataLoader that goes on with the exact next sample, in any loop."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from resumable import Position
from tests.support.loader_runs import EPOCHS, SIZE, WITH_WORKERS, N, cut, expected, loader_of, restarted
from tests.support.reference import Reference, batches_of, order_of, vars_of, whole

# Exact at every cut.


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batches", range(10))
def test_every_cut_of_a_run(batches: int, drop_last: bool) -> None:
    """Saved after any batch, in mid-epoch or at its end, a new process yields the rest, batch by batch."""
    trained, state = cut(loader_of(drop_last=drop_last), batches)
    rest = list(batches_of(restarted(state, drop_last=drop_last), EPOCHS))
    assert expected(drop_last=drop_last) == trained + rest


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("before", "after"), [(WITH_WORKERS, {}), ({}, WITH_WORKERS), (WITH_WORKERS, WITH_WORKERS)])
def test_what_workers_prefetched_counts_for_nothing(
    before: dict[str, Any], after: dict[str, Any], persistent: bool
) -> None:
    """What workers have prefetched counts for nothing, and their number may change."""
    for batches in (1, 3, 5):
        first, second = ({**o, "persistent_workers": persistent and bool(o)} for o in (before, after))
        trained, state = cut(loader_of(**first), batches)
        assert sum(map(len, trained)) == state["consumed_samples"]
        assert expected() == trained + list(batches_of(restarted(state, **second), EPOCHS))


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_epochs_of_one_batch_are_cut_exactly(n: int) -> None:
    """Epochs of one batch, and of a batch larger than the dataset."""
    for batches in range(len(expected(n))):
        trained, state = cut(loader_of(n), batches)
        assert expected(n) == trained + list(batches_of(restarted(state, n=n), EPOCHS))


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
def test_blocks_of_indices_are_not_to_be_seen(offset: int, size: int) -> None:
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
def test_another_batch_size_takes_the_same_samples_in_the_same_order(batches: int, size: int) -> None:
    """Other batches of the same samples in the same order, from mid-epoch and from a boundary, for all later epochs."""
    trained, state = cut(loader_of(), batches)
    loader = restarted(state, batch_size=size)
    assert "regrouped" == loader.state.verdict.outcome
    assert "Another micro batch size.\n  saved:   4\n  current: " + str(size) in str(loader.state.verdict)
    reference = Reference(order_of(N, shuffle=True, seed=5), *vars_of(loader.state.position))
    after = list(batches_of(loader, EPOCHS))
    assert [reference.take(size) for _ in after] == after
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS) == [i for batch in trained + after for i in batch]


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
    """`range(loader.epoch, epochs)` covers what is left: in mid-epoch the present one, after its end the next."""
    epochs = [restarted(cut(loader_of(), batches)[1]).epoch for batches in range(7)]
    assert [0, 0, 0, 1, 1, 1, 2] == epochs
    assert EPOCHS == restarted(cut(loader_of(), 9)[1]).epoch


@pytest.mark.parametrize("options", [{}, WITH_WORKERS, {**WITH_WORKERS, "persistent_workers": True}], ids=str)
@pytest.mark.parametrize("trained", [0, 1, 3])
def test_peeking_loses_nothing(options: dict[str, Any], trained: int) -> None:
    """`next(iter(loader))` before the loop, fresh or resumed, shows the next batch and moves nothing."""
    loader = restarted(cut(loader_of(), trained)[1], **options)
    assert trained // 3 == loader.epoch
    peeked = next(iter(loader)).tolist()
    rest = list(batches_of(loader, EPOCHS))
    assert peeked == rest[0]
    assert expected()[trained:] == rest


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
    """An `iter()` that is not advanced moves nothing."""
    loader = loader_of()
    first, second = iter(loader), iter(loader)
    del first, second
    assert Position() == loader.state.position
    assert expected() == list(batches_of(loader, EPOCHS))


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


def test_slices_of_a_loop_go_on_where_the_last_one_ended() -> None:
    """So many batches at a time, whoever counts them."""
    loader = loader_of(23)
    taken = [batch.tolist() for _ in range(3) for batch in islice(loader, 2)]
    assert expected(23)[:6] == taken
    assert expected(23)[6:] == list(batches_of(loader, EPOCHS))


def test_without_commits_the_batch_of_an_exception_is_trained() -> None:
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
def test_with_commits_only_whole_windows_are_trained(
    commits_every: int, fails_at: int, trained: int, options: dict[str, Any]
) -> None:
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
    """`epoch` is that of the next pass: where a window is left open at an epoch's end, that is the next epoch."""
    loader = loader_of()
    loader.state.commit()
    assert 3 == len(list(loader))
    assert (1, Position()) == (loader.epoch, loader.state.position)
    assert expected()[3:] == list(batches_of(loader, EPOCHS))
