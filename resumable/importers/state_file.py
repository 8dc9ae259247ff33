"""The file of `state.save` and `loader.save`; also a state that was written as plain JSON."""

from __future__ import annotations

import json
from pathlib import Path

from resumable.errors import StateError
from resumable.importers.found import Found, items_of, nothing_in, states_in
from resumable.saved import file as state_file

__all__ = ["read"]


def read(path: Path, /) -> Found | None:
    """The state in the file *path*; None for what is no text.

    Raises:
        StateError: if it is damaged, or holds no position.
    """
    if path.is_dir():
        return None
    with path.open("rb") as opened:
        if opened.read(64).lstrip()[:1] != b"{":
            return None
    try:
        content: object = state_file.read(path)
    except StateError as error:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise error from None
        if "resumable" in items_of(content):  # it was one, and is no longer what was written
            raise
    states = states_in(content)
    if not states:
        raise nothing_in(path, "a state of ResumptionState.save, or JSON with one in it")
    return Found("a state file", path, tuple(states))
