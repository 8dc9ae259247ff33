"""Pickles are data: nothing that they name is imported or called, and damaged ones are refused."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resumable.errors import StateError
from resumable.importers.unpickle import Inert, TensorRef, load_bytes, load_file


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [None, True, False])
def test_a_hostile_pickle_does_not_run(zipped: bool | None, protocol: int, tmp_path: Path) -> None:
    """Calls of system, eval, getattr and the like are read as data, in every protocol and form of file."""
    marker, file = tmp_path / "marker", tmp_path / "a.pt"
    content = {
        "a": Hostile(subprocess.call, ["touch", str(marker)]),
        "b": Hostile(eval, f"open({str(marker)!r}, 'w')"),
        "c": Hostile(getattr, os, "system"),
        "d": Hostile(__import__, "os"),
        "count": 7,
    }
    if zipped is None:
        file.write_bytes(pickle.dumps({**content, "c": 0}, protocol))
    else:
        del content["c"]
        torch.save(content, file, pickle_protocol=max(2, protocol), _use_new_zipfile_serialization=zipped)
    loaded: Any = load_file(file)
    assert (7, False) == (loaded["count"], marker.exists())
    assert isinstance(loaded["a"], Inert)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch MARKER'\ntR.",
        b'cbuiltins\nexec\n(S\'open("MARKER", "w")\'\ntR.',
        b"(S'touch MARKER'\nios\nsystem\n.",
        b"c__builtin__\ngetattr\n(cos\n__dict__\nS'system'\ntR.",
        b"csubprocess\nPopen\n((S'touch'\nS'MARKER'\nltR.",
    ],
)
def test_hand_written_pickles_do_not_run(code: bytes, tmp_path: Path) -> None:
    """Opcodes that no pickler writes are no way around it."""
    marker = tmp_path / "marker"
    assert isinstance(load_bytes(code.replace(b"MARKER", str(marker).encode()), "a"), Inert)
    assert not marker.exists()


def test_a_pickle_cannot_take_more_memory_than_it_has_bytes() -> None:
    """A memo that would grow to a place far off is refused before it does."""
    for code in (b"\x80\x02Nr\xff\xff\xff\x7f.", b"Np2147483647\n."):
        with pytest.raises(StateError, match="names a place"):
            load_bytes(code, "a")


def test_a_pickle_cannot_change_what_reads_the_next_one() -> None:
    """What stands in for a function takes no attributes."""
    hostile = b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\x00\x00\x00__defaults__K\x07\x85s\x86b."
    load_bytes(hostile, "a")
    content = {"a": torch.nn.Parameter(torch.tensor(7.0))}
    file = BytesIO()
    torch.save(content, file)
    loaded: Any = load_bytes(file.getvalue(), "a")
    assert isinstance(loaded["a"], TensorRef)


@pytest.mark.parametrize("kind", ["<i8", ">i8", "<u2", ">i4", "int8"])
def test_numpy_numbers(kind: str) -> None:
    """Whole numbers of every size and byte order come out as they are."""
    number = np.array([100], kind)[0]
    assert 100 == load_bytes(pickle.dumps(number), "a")


def test_tensors_of_one_element_are_numbers(tmp_path: Path) -> None:
    """Counts may be tensors; larger ones, and those with fractions, are not read."""
    content = {
        "int64": torch.tensor(7),
        "int32": torch.tensor([8], dtype=torch.int32),
        "second": torch.arange(4)[2],
        "large": torch.ones(1000),
        "fraction": torch.tensor(0.5),
    }
    torch.save(content, tmp_path / "a.pt")
    loaded: Any = load_file(tmp_path / "a.pt")
    assert [7, 8, 2, None, None] == [loaded[name].number for name in content]
    assert all(isinstance(each, TensorRef) for each in loaded.values())


def test_attributes_of_unknown_objects_are_kept() -> None:
    """An object's state is there, under its names, and so are the arguments of its call."""
    with_state = Hostile(os.getcwd)
    loaded: Any = load_bytes(pickle.dumps({"path": Path("a") / "b", "state": with_state}), "a")
    assert ("a", "b") == loaded["path"].args


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Each part of a file is refused with its size, or read where nothing is missing."""
    torch.save({"consumed_samples": 7}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(StateError, match="cannot be read safely"):
            load_file(tmp_path / "cut.pt")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    """Nothing but a StateError comes out of bytes that are no pickle."""
    with suppress(StateError):
        load_bytes(data, "a")


@given(st.data())
def test_damaged_pickles_are_refused_or_read(data: st.DataObject) -> None:
    """The same of pickles with some bytes changed."""
    whole = bytearray(
        pickletools.optimize(pickle.dumps({"a": [1, 2.5, None, "text", (b"bytes", {3})], "b": {"c": 2**70}}))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(StateError):
        load_bytes(bytes(whole), "a")
