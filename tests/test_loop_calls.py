"""What a loop calls on its loader, and what loader and state say of themselves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import resumable
from resumable import (
    AgreementError,
    ConfigurationError,
    ConstantBatchSize,
    MissingStateError,
    ResumableLoader,
    ResumptionError,
    ResumptionState,
)


def loader_of(batch_size: int = 4, **options: object) -> ResumableLoader[object]:
    """A shuffled loader over 26 samples."""
    return ResumableLoader(range(26), batch_size=batch_size, shuffle=True, seed=1, **options)  # type: ignore[arg-type]


def test_a_commit_on_the_loader_is_one_on_its_state() -> None:
    """`loader.commit()` says what `loader.state.commit()` says: only what is committed counts."""
    loader = loader_of()
    batches = iter(loader)
    next(batches)
    loader.commit()
    next(batches)
    assert (4, True) == (loader.state.consumed_samples, loader.state_dict()["commits"])


def test_a_saved_loader_is_loaded_by_its_path(tmp_path: Path) -> None:
    """`save(path)` and `load(path)` lead a new loader to the exact next batch."""
    first, second, path = loader_of(), loader_of(), tmp_path / "position.json"
    batches = iter(first)
    taken = [next(batches), next(batches)]
    first.save(path)
    second.load(path)
    assert [batch.tolist() for batch in loader_of()] == [  # type: ignore[attr-defined]
        *(batch.tolist() for batch in taken),  # type: ignore[attr-defined]
        *(batch.tolist() for batch in second),  # type: ignore[attr-defined]
    ]


def test_loading_a_path_without_a_file_moves_nothing(tmp_path: Path) -> None:
    """A first run has no file: the error is a FileNotFoundError too, and the loader is as it was."""
    loader = loader_of()
    with pytest.raises(MissingStateError):
        loader.load(tmp_path / "position.json")
    assert ResumptionState().state_dict()["consumed_samples"] == loader.state.consumed_samples


@pytest.mark.parametrize("drop_last", [False, True, "carry"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_done_and_those_of_the_pass_are_the_epoch(drop_last: object, workers: int) -> None:
    """At every cut, `batches_done` and the batches of the next pass make up `len(loader)`, also across epochs."""
    walked = loader_of(drop_last=drop_last)
    saved = [walked.state_dict()]
    for _ in range(3):
        saved += [walked.state_dict() for _ in walked]
    found, expected = [], []
    for state in saved[:: 1 if workers == 0 else 5]:
        loader = loader_of(drop_last=drop_last, num_workers=workers)
        loader.load_state_dict(state)
        assert state["epoch"] == loader.epoch
        done, whole = loader.batches_done, len(loader)
        found.append(whole)
        expected.append(done + sum(1 for _ in loader))
    assert expected == found


def test_batches_done_numbers_the_batches_of_a_resumed_pass() -> None:
    """As the start of `enumerate` it gives each batch the number that it has in an uninterrupted epoch."""
    whole, cut, resumed = (loader_of() for _ in range(3))
    expected = [(number, batch.tolist()) for number, batch in enumerate(whole)]  # type: ignore[attr-defined]
    batches = iter(cut)
    for _ in range(3):
        next(batches)
    resumed.load_state_dict(cut.state_dict())
    rest = enumerate(resumed, start=resumed.batches_done)
    assert expected[3:] == [(number, batch.tolist()) for number, batch in rest]  # type: ignore[attr-defined]


def test_batches_done_follows_the_training_in_a_pass() -> None:
    """In a pass it counts what is trained: yielded batches, or with commit() the committed ones."""
    plain, committed = loader_of(), loader_of()
    seen = [plain.batches_done for _ in plain]
    for number, _ in enumerate(committed):
        if number == 2:
            committed.commit()
        elif number == 4:
            break
    assert ([1, 2, 3, 4, 5, 6, 0], 3) == (seen, committed.batches_done)


def test_a_state_describes_itself_in_one_line() -> None:
    """Position, batch, samples and verdict, for people; nothing that is unknown is made up."""
    loader = loader_of()
    said = [loader.state.describe()]
    batches = iter(loader)
    next(batches)
    next(batches)
    said.append(loader.state.describe())
    other = loader_of(batch_size=2)
    other.load_state_dict(loader.state_dict())
    said.append(other.state.describe())
    bare = ResumptionState()
    bare.load_state_dict({"consumed_samples": 640})
    said.append(bare.describe())
    assert [
        "epoch 0, batch 0 of 7, 0 samples, exact",
        "epoch 0, batch 2 of 7, 8 samples, exact",
        "epoch 0, batch 4 of 13, 8 samples, the same samples in another grouping",
        "640 samples, exact",
    ] == said


def test_reprs_show_the_position() -> None:
    """What a debugger prints of a loader and its state says what they are and where."""
    loader = loader_of()
    next(iter(loader))
    shared = ResumableLoader(range(26), batch_size=4, data_parallel_rank=1, data_parallel_size=2)
    assert (
        "<ResumptionState: epoch 0, batch 1 of 7, 4 samples, exact>",
        "<ResumableLoader over 26 samples, shuffled, seed=1, batch_size=4: epoch 0, batch 1 of 7, 4 samples, exact>",
        "<ResumableLoader over 26 samples, sequential, batch_size=4, data_parallel_size=2: "
        "epoch 0, batch 0 of 4, 0 samples, exact>",
    ) == (repr(loader.state), repr(loader), repr(shared))


def test_each_resume_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """INFO of the logger `resumable`, once for each loaded state, and nothing for a fresh loader or a save."""
    caplog.set_level(logging.INFO, logger="resumable")
    loader = loader_of()
    next(iter(loader))
    loader.state_dict()
    before = [record.getMessage() for record in caplog.records]
    resumed = loader_of()
    resumed.load_state_dict(loader.state_dict())
    list(resumed)
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert ([], [("resumable", "INFO", "resumed at epoch 0, batch 1 of 7, 4 samples, exact")]) == (before, said)


def test_the_log_shows_how_exactly_this_resume_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the verdict on the state that was just loaded, not on the one before it."""
    caplog.set_level(logging.INFO, logger="resumable")
    loader = ResumableLoader(range(26), batch_size=4)
    next(iter(loader))
    ResumableLoader(range(26), batch_size=2).load_state_dict(loader.state_dict())
    expected = "resumed at epoch 0, batch 2 of 13, 4 samples, the same samples in another grouping"
    assert [expected] == [record.getMessage() for record in caplog.records]


def test_a_load_that_another_rank_refuses_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A resume that is undone, because the ranks disagree, leaves no line that says otherwise."""
    caplog.set_level(logging.INFO, logger="resumable")

    def other_rank_at_zero(record: bytes) -> list[bytes]:
        return [record, b'{"consumed_samples": 0}']

    saved = loader_of()
    next(iter(saved))
    loader = loader_of(agreement=other_rank_at_zero)
    with pytest.raises(AgreementError):
        loader.load_state_dict(saved.state_dict())
    assert ([], 0) == ([record.getMessage() for record in caplog.records], loader.state.consumed_samples)


def test_a_printed_ledger_names_its_fields() -> None:
    """One line for each stretch; a reader need not know the order of the saved values."""
    loader = ResumableLoader(range(26), batch_size=4, schedule=ConstantBatchSize(8))
    list(loader)
    assert (
        "step 0, sample 0: epoch 0, offset 0, length 26, micro_batch_size 4, data_parallel_size 1, accumulation 1, "
        "num_workers 0, drop_last False, limit None, schedule ConstantBatchSize(batch_size=8)"
    ) == str(loader.state.ledger)


@pytest.mark.parametrize(("misspelt", "meant"), [("sed", "seed"), ("num_worker", "num_workers"), ("rank", "ranks")])
def test_a_misspelt_option_is_named_with_the_nearest(misspelt: str, meant: str) -> None:
    """An option that neither this package nor torch has is an error of ours, before anything is built."""
    with pytest.raises(ConfigurationError, match=f"no option '{misspelt}'") as caught:
        loader_of(**{misspelt: 2})
    assert f"Pass {meant}=, or leave the option out." == str(caught.value).splitlines()[-1]


def test_the_state_shows_users_its_public_face_alone() -> None:
    """What completion offers on a state is what users use; the wiring is elsewhere."""
    assert [
        "agreement",
        "commit",
        "consumed_samples",
        "describe",
        "init_global_step",
        "ledger",
        "load",
        "load_state_dict",
        "padded_samples",
        "position",
        "samples_of_step",
        "save",
        "state_dict",
        "steps_of_sample",
        "stop_requested",
        "update_init_global_step",
        "verdict",
    ] == [name for name in dir(ResumptionState()) if not name.startswith("_")]


def test_a_state_without_a_loader_has_nothing_to_commit() -> None:
    """The error names the way that works."""
    with pytest.raises(ResumptionError, match="Use the state of a ResumableLoader"):
        resumable.ResumptionState().commit()
