"""The files of an audit: who writes where, and what is said of one that cannot be read."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from resumable import ConfigurationError, DecorationError, ResumableLoader, StateError, resumable
from resumable.audit import read_records, runs_of
from resumable.saved.audit_log import MARKS


def loader_of(folder: Any, **options: Any) -> ResumableLoader[Any]:
    """A loader with an audit."""
    return ResumableLoader(range(20), 5, audit=folder, **options)


def written(folder: Path, batches: int = 3) -> Path:
    """A file of an audit, of some batches."""
    loader = loader_of(folder)
    for number, _ in enumerate(loader, 1):
        if number == batches:
            break
    (file,) = folder.glob("*.audit")
    return file


def test_a_loader_that_is_not_iterated_writes_nothing(tmp_path: Path) -> None:
    """The folder is made at once, so that a wrong one is seen early; a file comes with the first pass."""
    folder = tmp_path / "new" / "audit"
    loader = loader_of(folder)
    loader.state_dict()
    assert (True, []) == (folder.is_dir(), list(folder.iterdir()))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A file, or what is no path, is refused before anything is trained; the decorator refuses it too."""
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(ConfigurationError, match="audit= must be a folder"):
        loader_of(taken)
    with pytest.raises(ConfigurationError, match="audit= names the folder"):
        loader_of(7)
    with pytest.raises(ConfigurationError, match="audit= must be a folder"):
        resumable(audit=taken)


def test_two_loaders_cannot_take_turns_in_one_folder(tmp_path: Path) -> None:
    """A train and a validation loader with one folder would look like sessions of one run."""
    train, valid = loader_of(tmp_path), loader_of(tmp_path)
    list(train)
    list(valid)
    with pytest.raises(ConfigurationError, match="Two loaders of this process take turns"):
        list(train)


def pickled(loader: Any) -> Any:
    """A copy, as another process gets it."""
    return pickle.loads(pickle.dumps(loader))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_has_a_file_of_its_own(copied: Any, tmp_path: Path) -> None:
    """A copy of a loader goes on from its position, in another session."""
    loader = loader_of(tmp_path)
    endless = loader.forever()
    for _ in range(2):
        next(endless)
    list(copied(loader))
    (run,) = runs_of(read_records(tmp_path))
    assert [(0, 10), (10, 20)] == [(kept.begins.consumed_samples, kept.ends.consumed_samples) for kept in run.kept]


def test_a_load_in_a_session_begins_another_part(tmp_path: Path) -> None:
    """One process that goes back writes both parts into one file."""
    loader = loader_of(tmp_path)
    list(loader)
    saved = loader.state_dict()
    list(loader)
    loader.load_state_dict(saved)
    assert loader.epoch == 1
    list(loader)
    (run,) = runs_of(read_records(tmp_path))
    assert (1, 2, 40, 20) == (
        len(list(tmp_path.iterdir())),
        len(run.sessions),
        run.ends.consumed_samples,
        run.undone_samples,
    )


def test_a_folder_is_given_once(tmp_path: Path) -> None:
    """A loader and the decorator of its datamodule cannot name two folders."""

    @resumable(audit=tmp_path / "one")
    class Data:
        trainer = None

        def train_dataloader(self) -> Any:
            return loader_of(tmp_path / "other")

    with pytest.raises(DecorationError, match="The audit is kept in two folders"):
        Data().train_dataloader()


def test_a_datamodule_in_a_loop_keeps_its_loaders_audit(tmp_path: Path) -> None:
    """A decorated datamodule writes to the folder that its loader was given."""

    @resumable
    class Data:
        trainer = None

        def train_dataloader(self) -> Any:
            return loader_of(tmp_path)

    list(Data().train_dataloader())
    (run,) = runs_of(read_records(tmp_path))
    assert 20 == run.ends.consumed_samples


def test_an_audit_is_whole_at_every_moment(tmp_path: Path) -> None:
    """Cut at any byte, a file is read up to its last whole line, or is not there yet; what is read was trained."""
    content = written(tmp_path).read_bytes()
    file = next(tmp_path.glob("*.audit"))
    for size in range(len(content)):
        file.write_bytes(content[:size])
        ends = [record.trained.consumed_samples for record in read_records(tmp_path)]
        assert ends in ([], [15])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (b"no json\n", "Expecting value"),
        (b"[1, 2]\n", "list indices"),
        (b'{"rank": 0}\n', "audit"),
        (b'{"audit": 9}\n', "knows 1"),
        (b'{"audit": 1, "rank": 0}\n{"part": 0, "state": {}}\n', "consumed_samples"),
        (b'{"audit": "\xff"}\n', "utf-8"),
    ],
)
def test_a_damaged_file_is_named(lines: bytes, reason: str, tmp_path: Path) -> None:
    """What cannot be read is refused as a whole, with the file and the reason."""
    file = written(tmp_path)
    file.write_bytes(file.read_bytes()[:MARKS] + lines)
    with pytest.raises(StateError, match=r"A file of the audit is damaged") as caught:
        read_records(tmp_path)
    assert (True, True) == (file.name in str(caught.value), reason in str(caught.value))


def test_damaged_marks_are_named(tmp_path: Path) -> None:
    """Marks that no session writes are refused."""
    file = written(tmp_path)
    file.write_bytes(b"\xff" * MARKS + file.read_bytes()[MARKS:])
    with pytest.raises(StateError, match="its marks contradict"):
        read_records(tmp_path)


def test_where_there_is_no_audit(tmp_path: Path) -> None:
    """No folder, a file, and a folder without an audit are told apart."""
    for path, says in (
        (tmp_path / "none", "nothing"),
        (written(tmp_path / "a"), "a file"),
        (tmp_path, "holds no audit"),
    ):
        with pytest.raises(StateError, match=says):
            read_records(path)


def test_a_process_without_a_pass_writes_nothing_for_its_parent(tmp_path: Path) -> None:
    """A fork shares the file of its parent, and does not end that one's session."""
    loader = loader_of(tmp_path)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if not child:
        del batches, loader
        os._exit(0)
    os.waitpid(child, 0)
    (record,) = read_records(tmp_path)
    assert record.has_ended is False
