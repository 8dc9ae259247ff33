"""A folder of torch.distributed.checkpoint: `.metadata` says in which file each value lies, and where.

.metadata              a pickle of names, sizes and places, read as plain values
__0_0.distcp           what rank 0 wrote: values that are no tensors are files of torch.save, one after the other
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from resumable.errors import StateError
from resumable.importers.found import Found, items_of, nothing_in, number_of, states_in
from resumable.importers.unpickle import load_bytes, load_file
from resumable.saved.snapshot import KEYS

__all__ = ["common_state", "read"]

_STEPS = ("step", "global_step", "iteration", "steps")
_LARGEST = 1 << 24
"""Bytes of a value that is read: a position has a few thousand."""


def read(path: Path, /) -> Found | None:
    """The states in the folder *path*; None for what torch.distributed.checkpoint has not saved.

    Raises:
        StateError: if it cannot be read, or holds no position.
    """
    places = _places(path)
    if places is None:
        return None
    names = [name for name in places if name.rpartition(".")[2] in (*KEYS, "args", *_STEPS) or "common" in name]
    names += [name for name in places if any(name.startswith(f"{each.rpartition('.')[0]}.") for each in names)]
    content = _nested({name: _value(path, places[name]) for name in dict.fromkeys(names)})
    states = states_in(content)
    if not states:
        raise nothing_in(path, "the state of a ResumableLoader, or of a ResumptionState, among its values")
    counts = [number_of(items_of(content).get(name)) for name in _STEPS]
    return Found("DCP", path, tuple(states), next((count for count in counts if count is not None), None))


def common_state(path: Path) -> object | None:
    """What newer releases of megatron-core keep as `common_state` in the folder *path*; None where there is none."""
    places = _places(path) or {}
    names = [name for name in places if re.split(r"[./]", name)[0] == "common_state"]
    if len(names) == 1:
        return _value(path, places[names[0]])
    return _nested({name: _value(path, places[name]) for name in names}).get("common_state")


def _places(path: Path) -> dict[str, tuple[str, int, int]] | None:
    """File, offset and length of each value that is no tensor."""
    file = path / ".metadata"
    if not file.is_file():
        return None
    metadata = items_of(load_file(file))
    kinds, storage = items_of(metadata.get("state_dict_metadata")), items_of(metadata.get("storage_data"))
    found: dict[str, tuple[str, int, int]] = {}
    for index, place in storage.items():
        name = items_of(index).get("fqn")
        where = items_of(place)
        parts = where.get("relative_path"), where.get("offset"), where.get("length")
        if isinstance(name, str) and type(kinds.get(name)).__name__ == "BytesStorageMetadata":
            relative, offset, length = parts
            if isinstance(relative, str) and isinstance(offset, int) and isinstance(length, int):
                found[name] = relative, offset, length
    if not kinds:
        raise StateError("The metadata of the checkpoint name no values.", [("file", str(file))])
    return found


def _value(path: Path, place: tuple[str, int, int]) -> object:
    relative, offset, length = place
    file = path / relative
    if file.resolve().parent != path.resolve() or not file.is_file() or not 0 <= length <= _LARGEST or offset < 0:
        raise StateError(
            "A value of the checkpoint is not where its metadata say.",
            [("file", str(file)), ("offset", offset), ("length", length)],
            "Pass a checkpoint that is whole.",
        )
    with file.open("rb") as opened:
        opened.seek(offset)
        return load_bytes(opened.read(length), str(file))


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    """*values* by their names' parts: what DCP has taken apart, as it was."""
    whole: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        at: dict[str, Any] | None = whole
        for part in parents:
            below: object = {} if at is None else at.setdefault(part, {})
            at = cast("dict[str, Any]", below) if isinstance(below, dict) else None  # a value has this name
        if at is not None:
            at[last] = value
    return whole
