"""State files: whole at every moment, refused when damaged, and the state before always offered."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from ast import literal_eval
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resumable import ConfigurationError, ResumptionState, StateError
from resumable.errors import MissingStateError
from resumable.saved.file import NAME, read, write
from resumable.saved.file_text import render
from resumable.state import tracker_of
from tests.support.killed_writers import TRICKY, names, number_in, offers, previous_of, state
from tests.support.reference import Loader
from tests.support.state_files import ROOT, refused

GOLDEN = Path(__file__).parents[1] / "golden" / "statefile_1.json"
# What is written.


def test_the_last_state_and_the_one_before_it(path: Path) -> None:
    """A write leaves the new state, the one before it, and nothing else."""
    for number in range(4):
        write(path, state(number))
        assert state(number) == read(path)
        if number:
            assert state(number - 1) == read(previous_of(path))
    assert ["state.json", "state.json.previous"] == names(path.parent)


def test_the_golden_file_is_read_for_ever(path: Path) -> None:
    """What version 1 wrote is read, and written again to the letter: another text is another version."""
    assert 120 == ResumptionState.load(GOLDEN).consumed_samples
    write(path, read(GOLDEN))
    assert GOLDEN.read_bytes() == path.read_bytes()


def test_people_can_read_it(path: Path) -> None:
    """It is JSON, with a line for each key of the state; the checksum is of the state without spaces, keys sorted."""
    canonical = b'{"consumed_samples":8,"order":{"kind":"shuffled","seed":1}}'
    write(path, {"consumed_samples": 8, "order": {"seed": 1, "kind": "shuffled"}})
    assert path.read_text() == (
        "{\n"
        '  "resumable": 1,\n'
        f'  "sha256": "{hashlib.sha256(canonical).hexdigest()}",\n'
        '  "state": {\n'
        '    "consumed_samples": 8,\n'
        '    "order": {"seed": 1, "kind": "shuffled"}\n'
        "  }\n"
        "}\n"
    )
    assert read(path) == json.loads(path.read_text())["state"]


@pytest.mark.parametrize("held", [{}, state(1), TRICKY])
def test_what_comes_back(path: Path, held: dict[str, Any]) -> None:
    """Everything that JSON can hold comes back as it was, in its order."""
    write(path, held)
    assert held == read(path)
    assert list(held) == list(read(path))


@pytest.mark.parametrize(
    ("bad", "where", "what"),
    [
        ({"at": (1, 2)}, "['at']", "a tuple"),
        ({"at": [0, {"rng": b"x"}]}, "['at'][1]['rng']", "a bytes"),
        ({"at": {3: "x"}}, "['at']", "the key 3, which is not a string"),
        ({"at": float("nan")}, "['at']", "the number nan"),
        ({"at": [float("-inf")]}, "['at'][0]", "the number -inf"),
        ({"at": {1}}, "['at']", "a set"),
        ({"at": Path()}, "['at']", f"a {type(Path()).__name__}"),
    ],
)
def test_what_json_would_change_is_named(path: Path, bad: dict[str, Any], where: str, what: str) -> None:
    """A state that would come back as another is not written, and the message says where it lies."""
    write(path, state(1))
    with pytest.raises(StateError, match="JSON cannot return unchanged") as caught:
        write(path, {"loaders": [{"state": bad}]})
    assert f"where: \"state['loaders'][0]['state']{where}\"" in str(caught.value)
    assert f"what:  {what!r}" in str(caught.value)
    assert (state(1), ["state.json"]) == (read(path), names(path.parent))


# Loops without a checkpoint library.


def loader(**options: Any) -> Any:
    """A loader of 31 samples."""
    return Loader(range(31), **{"batch_size": 4, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True},
        {"shuffle": True, "seed": 2**64 - 1, "drop_last": True},
        {"shuffle": True, "batch_size": 3},
    ],
)
@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5, 8, 13])
def test_a_loader_goes_on_from_a_file(path: Path, options: dict[str, Any], commits: bool, steps: int) -> None:
    """Through a file, a loader goes on with the very state and the very samples that it would have had."""
    before, after = loader(**options), loader(**options)
    trained = 0
    while trained < steps:
        for _ in islice(before, steps - trained):
            trained += 1
            if commits:
                before.state.commit()
    before.state.save(path)
    loaded = ResumptionState.load(path)
    assert tracker_of(loaded).progress is None
    assert before.state_dict() == loaded.state_dict() == read(path)
    after.load_state_dict(loaded.state_dict())
    assert before.state_dict() == after.state_dict()
    assert before.state.position == after.state.position == loaded.position
    rest = [batch.tolist() for _ in range(2) for batch in before]
    assert rest == [batch.tolist() for _ in range(2) for batch in after]


@pytest.mark.parametrize(
    "given",
    [
        {"consumed_samples": 640},
        *json.loads((ROOT / "tests" / "golden" / "state_format_1.json").read_text()).values(),
    ],
)
def test_every_state_goes_through_a_file(path: Path, given: dict[str, Any]) -> None:
    """A bare count, a state of an older format, several loaders, an iterable dataset's own state: all as they were."""
    known = ResumptionState()
    known.load_state_dict(given)
    known.save(path)
    assert known.state_dict() == ResumptionState.load(path).state_dict() == read(path)


def test_a_file_without_a_position(path: Path) -> None:
    """A whole file whose state is none is refused as any other such state is."""
    write(path, {"consumed_samples": -1})
    with pytest.raises(StateError, match="must be a whole number"):
        ResumptionState.load(path)


# What is refused.


def test_every_truncation_is_refused(written: Path) -> None:
    """A file of which any number of bytes is missing at its end is refused, and the one before it is offered."""
    text = render(state(3))
    for length in range(len(text)):
        written.write_bytes(text[:length])
        assert offers(refused(written), previous_of(written)), length
    written.write_bytes(text)
    assert state(3) == read(written)


def test_flipped_bits_in_a_file(written: Path) -> None:
    """In every byte of the file: refused, and the one before it offered."""
    text = written.read_bytes()
    for place in range(len(text)):
        written.write_bytes(text[:place] + bytes([text[place] ^ (1 << place % 8)]) + text[place + 1 :])
        assert offers(refused(written), previous_of(written)), place


REFUSALS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda text: b"", "The state file is torn: its end is missing.\n  path: {path}\n  bytes: 0"),
    "cut": (lambda text: text[:40], "The state file is torn: its end is missing.\n  path: {path}\n  bytes: 40"),
    "zeros": (
        lambda text: bytes(len(text)),
        "This is not a state file of resumable, or its beginning is destroyed.\n  path: {path}\n  begins with: "
        + repr(bytes(16)),
    ),
    "another count": (
        lambda text: text.replace(b'"consumed_samples": 2', b'"consumed_samples": 3'),
        "The state file has changed since it was written.\n  path: {path}\n  sha256 as written: {two}\n"
        "  sha256 as found: {three}",
    ),
    "no JSON": (
        lambda text: text.replace(b": 2,", b": ,"),
        "The state file has changed since it was written.\n  path: {path}",
    ),
    "newer": (
        lambda text: text.replace(b'"resumable": 1', b'"resumable": 2'),
        "A newer version of resumable wrote this state file, or it has been damaged.\n  path: {path}\n"
        "  its version: 2\n  newest known: 1",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_says(written: Path, name: str) -> None:
    """What is wrong, with both values where there are two; where the one before it lies, and the line to load it."""
    damage, expected = REFUSALS[name]
    two, three = (json.loads(render(state(number)))["sha256"] for number in (2, 3))
    written.write_bytes(damage(written.read_bytes()))
    expected = expected.format(path=repr(str(written)), two=repr(two), three=repr(three))
    said = "\n".join(" ".join(line.split()) for line in refused(written).splitlines())
    assert said == "\n".join(" ".join(line.split()) for line in expected.splitlines()) + (
        f"\nprevious: {str(previous_of(written))!r}\n"
        "its consumed_samples: 1\n"
        "To go on from the state before it, call "
        f"ResumptionState.load({str(previous_of(written))!r}). Nothing was loaded."
    )
    assert 1 == ResumptionState.load(previous_of(written)).consumed_samples


def test_without_a_readable_one_before_it_nothing_is_offered(written: Path) -> None:
    """Where the one before it is gone, damaged or cannot be read, the message says so and offers nothing."""
    written.write_bytes(b"{")
    previous_of(written).write_bytes(render(state(1))[:-1])
    said = refused(written)
    assert "its flaw: 'The state file is torn: its end is missing.'\nThe state before it is damaged too" in said
    previous_of(written).unlink()
    assert "previous: None\nThe state before it cannot be read either: load another checkpoint." in refused(written)
    previous_of(written).mkdir()
    assert "its flaw: 'A state file is a regular file, and this is something else.'" in refused(written)


def test_there_is_none(path: Path) -> None:
    """A first run is distinguished from a damaged file: its error is a FileNotFoundError as well."""
    with pytest.raises(FileNotFoundError) as caught:
        ResumptionState.load(path)
    error: Exception = pickle.loads(pickle.dumps(caught.value))
    assert (MissingStateError, True) == (type(error), isinstance(error, StateError))
    assert str(error) == (
        f"There is no state file.\n  path: {str(path)!r}\n"
        "In a first run, begin without a state. Otherwise check the path."
    )


def test_only_the_one_before_is_left(written: Path) -> None:
    """Then this is not a first run: the error is not a FileNotFoundError, and it offers the file that is left."""
    written.unlink()
    assert offers(refused(written), previous_of(written))
    previous_of(written).write_bytes(b"")
    assert "The state before it is damaged too" in refused(written)


def test_only_a_regular_file_is_written_or_read(tmp_path: Path) -> None:
    """Nothing else is written over, and a FIFO, whose reader would wait for a writer, is not opened."""
    fifo, loop = tmp_path / "fifo", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    for bad in (tmp_path, Path(os.devnull), fifo, loop):
        with pytest.raises(ConfigurationError, match="A state is saved to a regular file"):
            write(bad, state(1))
    for bad, kind in ((tmp_path, "a directory"), (Path(os.devnull), "a device"), (fifo, "a FIFO")):
        assert f"it is:    '{kind}'" in refused(bad)


def test_the_writers_own_names_are_no_state_files(tmp_path: Path) -> None:
    """A save sweeps what killed writers left, and would remove the state with it."""
    with pytest.raises(ConfigurationError, match="writers' own"):
        write(tmp_path / NAME.format(0), state(4))
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is named, also where a file has its name; to a reader there is no state file yet."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match="The folder of the state file does not exist") as caught:
            write(folder / "state.json", state(1))
        assert f"folder: {str(folder)!r}" in str(caught.value)
    with pytest.raises(MissingStateError):
        read(tmp_path / "nowhere" / "state.json")


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
        lambda name: name not in (".", "..") and len(name.encode()) <= 255
    )
)
@example("n" * 255)
@example("n" * 246)
@example("n" * 247)
@example("é" * 127)
@example("\U0001f40d" * 63 + "abc")
def test_every_name_of_the_file_system(name: str) -> None:
    """Whatever name a file can have, up to 255 bytes, a state file can have; the state before it has a name of its own."""
    with TemporaryDirectory() as folder:
        path, other = Path(folder, name), Path(folder, name[:-1] + ("x" if name[-1] != "x" else "y"))
        for number in range(3):
            write(path, state(number))
            write(other, state(number + 10))
        assert 2 == number_in(path)
        path.write_bytes(b"{")
        offered = re.search(r"ResumptionState\.load\((.*)\)\. Nothing", refused(path))
        assert offered is not None
        assert 1 == number_in(Path(literal_eval(offered[1])))
        assert 4 == len(names(Path(folder)))
