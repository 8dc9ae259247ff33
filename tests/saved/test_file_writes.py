"""How a state file is written: whole or not at all, by several writers, and by ones that are killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from resumable import ResumptionState
from resumable.saved.file import NAME, write
from tests.support.killed_writers import SCENARIOS, Calls, leave_behind, names, number_in, offers, previous_of, state
from tests.support.state_files import ROOT, refused

# How it is written.


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_a_plain_open(path: Path, umask: int) -> None:
    """A new file follows the umask, and one that is there keeps its mode."""
    before = os.umask(umask)
    try:
        write(path, state(1))
        with open(path.with_name("plain"), "w") as plain:
            plain.write("")
    finally:
        os.umask(before)
    assert path.with_name("plain").stat().st_mode == path.stat().st_mode
    path.chmod(0o640)
    write(path, state(2))
    write(path, state(3))
    assert [0o640, 0o640] == [stat.S_IMODE(each.stat().st_mode) for each in (path, previous_of(path))]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    """The file that the link points to is written, whether it is there yet or not, and the one before it lies beside it."""
    (tmp_path / "run").mkdir()
    link, file = tmp_path / "latest", tmp_path / "run" / "state.json"
    link.symlink_to(Path("run", "state.json"))
    for number in (1, 2):
        write(link, state(number))
        assert (True, number) == (link.is_symlink(), number_in(file))
    assert ["state.json", "state.json.previous"] == names(file.parent)
    assert ["latest", "run"] == names(tmp_path)
    file.write_bytes(b"")
    assert offers(refused(link), previous_of(file))


def test_text_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is a text or a Path, from the current directory on."""
    monkeypatch.chdir(tmp_path)
    ResumptionState().save("state.json")
    assert ResumptionState().state_dict() == ResumptionState.load("state.json").state_dict()
    assert ["state.json"] == names(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls from here on."""
    watched = Calls()
    watched.watch(monkeypatch.setattr)
    return watched


def test_what_is_renamed_is_on_the_disk(written: Path, calls: Calls) -> None:
    """A power cut finds whole files: text before name, the old one's second name before the new one, names at the end."""
    write(written, state(3))
    steps = [name for name in calls.made if name in ("fsync", "link", "replace")]
    assert ["fsync", "link", "replace", "replace", "fsync"] == steps


@pytest.mark.parametrize("links", [True, False])
def test_an_error_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Whatever the system refuses passes as it is; the old file is as it was, and nothing lies about."""
    passed: list[str] = []
    codes: set[int | None] = set()
    for number in count(1):
        path = tmp_path / str(number) / "state.json"
        path.parent.mkdir()
        write(path, state(1))
        write(path, state(2))
        calls = Calls(links=links)

        def fail(made: int, number: int = number) -> None:
            if made == number:
                raise OSError(errno.ENOSPC, "No space left on device")

        calls.before = fail
        with monkeypatch.context() as patch:
            calls.watch(patch.setattr)
            try:
                write(path, state(3))
            except OSError as error:
                codes.add(error.errno)
            else:
                passed.append(calls.made[number - 1] if number <= len(calls.made) else "all")
        # at the end, the directory is synced when the file has its new name already
        assert (3 if calls.renamed == 2 else 2) == number_in(path)
        assert ["state.json", "state.json.previous"] == names(path.parent)
        if passed[-1:] == ["all"]:
            break
    assert {errno.ENOSPC} == codes
    # what killed writers left may stay, without locks nothing is removed, without links there is a copy
    assert ["open"] * 8 + ["flock", "link", "all"] == passed


def test_a_write_that_is_broken_off_leaves_the_old_file(written: Path) -> None:
    """A write that the system breaks off in its middle leaves the old file, and no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(written, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (2, 1) == (number_in(written), number_in(previous_of(written)))
    assert ["state.json", "state.json.previous"] == names(written.parent)


def test_a_copy_where_there_are_no_hard_links(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it is kept all the same, with its mode."""
    written.chmod(0o600)
    calls = Calls(links=False)
    with monkeypatch.context() as patch:
        calls.watch(patch.setattr)
        write(written, state(3))
    assert ["fsync", "link", "fsync", "replace", "replace", "fsync"] == [
        name for name in calls.made if name in ("fsync", "link", "replace")
    ]
    assert (3, 2) == (number_in(written), number_in(previous_of(written)))
    assert 0o600 == stat.S_IMODE(previous_of(written).stat().st_mode)


@pytest.mark.parametrize("damage", [b"", b"{", bytes(400), b"somebody else's"])
def test_a_damaged_file_is_not_kept(written: Path, calls: Calls, damage: bytes) -> None:
    """It never takes the place of the whole one before it, which is the last that there is until the new one stands."""
    written.write_bytes(damage)
    write(written, state(3))
    assert (3, 1) == (number_in(written), number_in(previous_of(written)))
    assert 1 == calls.made.count("replace")


def test_two_names_of_one_file(written: Path) -> None:
    """After a kill between the two renames both names are one file, which rename(2) leaves as it is: nothing stays."""
    previous_of(written).unlink()
    os.link(written, previous_of(written))
    write(written, state(3))
    assert (3, 2) == (number_in(written), number_in(previous_of(written)))
    assert ["state.json", "state.json.previous"] == names(written.parent)


# Several writers.


@pytest.mark.parametrize("number", range(8))
def test_what_a_killed_writer_left_is_removed(path: Path, number: int) -> None:
    """The next write in the folder removes it, of whatever state it was, and that alone."""
    leave_behind(path, number)
    others = [NAME.format(number) + ".mine", "state.json.new", ".resumable-00000000-0.new"]
    for name in others:
        path.with_name(name).touch()
    write(path.with_name("another.json"), state(1))
    assert sorted(["another.json", *others]) == names(path.parent)


def test_half_of_what_a_killed_writer_left(written: Path) -> None:
    """The other half was removed by hand: the next write goes on."""
    written.with_name(NAME.format(0) + ".previous").touch()
    last = number_in(written)
    write(written, state(7))
    assert (7, last) == (number_in(written), number_in(previous_of(written)))
    assert [written.name, previous_of(written).name] == names(written.parent)


def test_what_a_crowd_of_killed_writers_left_is_removed(path: Path) -> None:
    """More of them than are looked for at each save: those that are in the way."""
    for number in range(20):
        leave_behind(path, number)
    write(path, state(1))
    assert 12 * 2 + 1 == len(names(path.parent))
    leave_behind(path.with_name("more"), 8)
    with open(path.with_name(NAME.format(0)), "w") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        for number in range(1, 8):
            path.with_name(NAME.format(number)).mkdir()
        write(path, state(2))
    assert (2, 1) == (number_in(path), number_in(previous_of(path)))
    assert NAME.format(8) not in names(path.parent)


def test_a_save_does_not_list_its_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may hold a million files."""

    def listed(*given: object) -> None:
        raise AssertionError(given)

    with monkeypatch.context() as patch:
        for name in ("listdir", "scandir"):
            patch.setattr(os, name, listed)
        write(path, state(1))
        write(path, state(2))
    assert ["state.json", "state.json.previous"] == names(path.parent)


def test_a_name_that_another_user_has_laid_out(path: Path) -> None:
    """In a folder that all may write to, a link, a FIFO or a folder in a writer's place is neither followed nor awaited."""
    mine = path.with_name("mine")
    mine.write_text("mine")
    path.with_name(NAME.format(0)).symlink_to(mine)
    os.mkfifo(path.with_name(NAME.format(1)))
    path.with_name(NAME.format(2)).mkdir()
    path.with_name(NAME.format(3)).symlink_to("nowhere")
    write(path, state(1))
    assert (1, "mine") == (number_in(path), mine.read_text())
    assert not path.with_name("nowhere").exists()


def test_what_cannot_be_removed_costs_no_save(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks it may belong to a living writer: it stays, and the state is saved."""
    left = leave_behind(written)

    def no_locks(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(written, state(3))
    assert 3 == number_in(written)
    assert sorted(["state.json", "state.json.previous", *left]) == names(written.parent)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("moment", ["before", "behind"])
def test_another_writer_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, links: bool) -> None:
    """A second write comes to its end inside the first, at each of its steps: both succeed, and both files are whole."""
    number = 0
    for number in count(1):
        path = tmp_path / str(number) / "state.json"
        path.parent.mkdir()
        write(path, state(1))
        calls = Calls(links=links)

        def interrupt(made: int, number: int = number, calls: Calls = calls, path: Path = path) -> None:
            if made == number:
                calls.before = calls.behind = lambda number: None
                write(path, state(3))
                assert 3 == number_in(path)

        setattr(calls, moment, interrupt)
        with monkeypatch.context() as patch:
            calls.watch(patch.setattr)
            write(path, state(2))
        assert {number_in(path), number_in(previous_of(path))} <= {1, 2, 3}
        assert ["state.json", "state.json.previous"] == names(path.parent)
        if len(calls.made) < number:
            break
    assert 12 < number


def program(*given: object, timeout: int = 300) -> Any:
    """What this module reports when it is run as a program."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_writers", *map(str, given)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="it plays two users")
def test_another_users_file() -> None:
    """A save that is refused, where only owners replace files, leaves nothing that would be in the owner's way."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "shared").mkdir()
        seen = program("users", Path(folder) / "shared")
    left = [NAME.format(number) + ending for number in (0, 2) for ending in ("", ".previous")]
    first, both = ["state.json"], ["state.json", "state.json.previous"]
    assert [first, first, [*left, *first], [*left, *both], [*left, *both]] == list(seen.values())


# Writers that are killed.


def test_killed_at_every_step(tmp_path: Path) -> None:
    """Killed before, inside or after any call of a write, a reader finds the old or the new state, or the offered one."""
    kills = program("steps", tmp_path)
    assert list(SCENARIOS) == list(kills)
    assert all(found >= 15 for found in kills.values()), kills


@pytest.mark.slow
def test_killed_between_any_two_steps_of_python(tmp_path: Path) -> None:
    """The same before each instruction of the interpreter."""
    kills = program("opcodes", tmp_path, timeout=1800)
    assert all(found >= 150 for found in kills.values()), kills


def test_killed_at_random(tmp_path: Path) -> None:
    """A writer that saves in a loop, killed again and again: what was reported as saved is never lost."""
    report = program("loop", tmp_path, 1, 100)
    assert (100, True) == (report["kills"], report["saves"] > 50)


def test_a_crowd_killed_at_random(tmp_path: Path) -> None:
    """Several writers of one file: what a reader finds is whole at any time, and no writer fails for another."""
    report = program("crowd", tmp_path, 2, 30)
    assert (30, True) == (report["kills"], report["reads"] > 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 6))
def test_killed_at_random_for_long(tmp_path: Path, seed: int) -> None:
    """Both, a thousand times."""
    for kind in ("loop", "crowd"):
        (tmp_path / kind).mkdir()
        assert 500 == program(kind, tmp_path / kind, seed, 500, timeout=1800)["kills"]
