"""Runs that are killed, resumed and resized are proven to be exact, and no more is claimed of them than they trained."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import ResumableLoader, StepSchedule, resumable
from resumable.audit import AuditedRun, faults_of, read_records, runs_of
from resumable.position import Position
from tests.support import sampler_runs
from tests.support.cuts import interrupted, saved_after_step, saved_at_epoch_end, sigkill
from tests.support.killing import exit_code, forked
from tests.support.lightning_runs import Numbers, Scenario, numbers, resumed

SIZES = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))


def proven(folder: Path) -> AuditedRun:
    """The one run in *folder*, without a fault."""
    (run,) = runs_of(read_records(folder))
    assert [] == [str(fault) for fault in faults_of(run)]
    return run


def loaders(folder: str | Path | None, sizes: tuple[int, int], **options: Any) -> list[ResumableLoader[Any]]:
    """The loader of each rank."""
    ranks, micro = sizes
    return [
        ResumableLoader(
            range(60), micro, shuffle=True, audit=folder, data_parallel_rank=rank, data_parallel_size=ranks, **options
        )
        for rank in range(ranks)
    ]


def step(loader: ResumableLoader[Any], batches: Iterator[Any] | None) -> Iterator[Any]:
    """Take one optimizer step, over the end of an epoch if it comes."""
    for _ in range(loader.num_microbatches):
        batches = iter(loader) if batches is None else batches
        if next(batches, None) is None:
            batches = iter(loader)
            next(batches)
    return batches if batches is not None else iter(())


@given(
    sessions=st.lists(st.tuples(SIZES, st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=4),
    drop_last=st.sampled_from([False, True, "carry"]),
    schedule=st.sampled_from([None, StepSchedule(((0, 24), (90, 48)))]),
    commits=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_chains_of_sessions_are_proven(
    sessions: list[tuple[tuple[int, int], int, int]], drop_last: Any, schedule: Any, commits: bool
) -> None:
    """Whatever the sizes, the saves and what came after them, the chain is exact, and ends where the last rank stood."""
    with TemporaryDirectory() as folder:
        saved: dict[str, Any] | None = None
        state: dict[str, Any] = {}
        at = Position()
        for sizes, steps, beyond in sessions:
            for loader in loaders(folder, sizes, drop_last=drop_last, schedule=schedule):
                if saved is not None:
                    loader.load_state_dict(saved)
                at = loader.state.position
                if commits:
                    loader.commit()
                batches: Iterator[Any] | None = None
                for number in range(steps + beyond):
                    if number == steps:
                        state = loader.state_dict()
                    batches = step(loader, batches)
                    if commits:
                        loader.commit()
                state = state if beyond else loader.state_dict()
                at = loader.state.position
            saved = state
        run = proven(Path(folder))
        assert (len(sessions), at.consumed_samples) == (len(run.sessions), run.ends.consumed_samples)


def test_what_a_kill_undid_is_undone(tmp_path: Path) -> None:
    """A killed process leaves what it was given; the next one begins before that, and what it repeats is no repetition."""
    state = tmp_path / "state.json"

    def session() -> None:
        loader = ResumableLoader(range(60), 5, shuffle=True, audit=tmp_path)
        if state.exists():
            loader.load(state)
        for number, _ in enumerate(loader, 1):
            if number == 3:
                loader.save(state)
            if number == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    assert [-9, -9] == [exit_code(forked(session)) for _ in range(2)]
    run = proven(tmp_path)
    assert (Position(40, 0, 40), 10, [True, True]) == (
        run.ends,
        run.undone_samples,
        [each.was_killed for each in run.sessions],
    )


def test_a_fresh_start_is_another_run(tmp_path: Path) -> None:
    """A session that begins at the first sample begins a run; a resume goes on with the last one that came so far."""
    (first,) = loaders(tmp_path, (1, 5))
    batches = step(first, None)
    for _ in range(4):
        batches = step(first, batches)
    saved = first.state_dict()
    (second,) = loaders(tmp_path, (1, 5))
    step(second, None)
    (third,) = loaders(tmp_path, (1, 5))
    third.load_state_dict(saved)
    step(third, None)
    runs = runs_of(read_records(tmp_path))
    assert [(2, 30), (1, 5)] == [(len(run.sessions), run.ends.consumed_samples) for run in runs]
    assert [[], []] == [faults_of(run) for run in runs]


def test_a_session_that_trained_nothing_begins_no_run(tmp_path: Path) -> None:
    """What was given to a loop that was stopped before its first step is undone by the next session."""
    (first,) = loaders(tmp_path, (1, 5))
    first.commit()
    next(iter(first))
    (second,) = loaders(tmp_path, (1, 5))
    second.load_state_dict(first.state_dict())
    step(second, None)
    second.commit()
    run = proven(tmp_path)
    assert (2, 5) == (len(run.sessions), run.ends.consumed_samples)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"limit_train_batches": 5}])
def test_lightning(options: dict[str, Any], tmp_path: Path) -> None:
    """A decorated datamodule writes what its trainer trained, however the sessions end."""
    audited: Any = resumable(audit=tmp_path)(type("Numbers", (Numbers,), {}))
    scenario = Scenario(data=audited, trainer={"max_epochs": 3, **options})
    cuts = [saved_after_step(1), saved_at_epoch_end(0), interrupted("training_step", (1, 3)), sigkill((2, 2), 1)]
    whole = resumed(scenario, *cuts)
    run = proven(tmp_path)
    trained = sum(len(whole.ids(epoch)) for epoch in whole.epochs)
    assert (5, trained, 3) == (len(run.sessions), run.ends.consumed_samples, run.ends.epoch)


@pytest.mark.parametrize("kind", ["single", "cyclic"])
def test_a_data_sampler_under_lightning(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a data sampler counts is written as well, in consumed samples."""
    audited: Any = resumable(audit=tmp_path)(type("Data", (sampler_runs.data_class("plain"),), {}))
    monkeypatch.setattr(sampler_runs, "data_class", {"explicit": audited}.__getitem__)
    scenario = sampler_runs.Scenario(kind=kind, trainer={"max_epochs": 3})
    cuts = [saved_after_step(3), saved_at_epoch_end(1)]
    whole = sampler_runs.resumed(scenario, *cuts)
    run = proven(tmp_path)
    assert (3, len(sampler_runs.ids(whole))) == (len(run.sessions), run.ends.consumed_samples)


def test_loaders_that_are_handed_to_a_fit(tmp_path: Path) -> None:
    """A ResumableLoader writes its audit under a trainer too, and one that a decorated datamodule returns gives it that."""
    scenario = Scenario(
        loaders=lambda scenario: ResumableLoader(numbers(scenario.samples), 4, shuffle=True, audit=tmp_path),
        trainer={"max_epochs": 2},
    )
    resumed(scenario, saved_after_step(3), interrupted("training_step", (1, 1)))
    run = proven(tmp_path)
    assert (3, Position(44, 2, 0)) == (len(run.sessions), run.ends)


def test_what_is_written_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """A session of many epochs takes as many bytes as one of a few batches: less than a kilobyte."""
    (loader,) = loaders(tmp_path, (1, 5))
    step(loader, None)
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    for _ in range(50):
        for _ in loader:
            pass
        loader.state_dict()
    assert (size, True) == (file.stat().st_size, size < 1024)
