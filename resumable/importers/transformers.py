"""A `checkpoint-N` of the Trainer of Hugging Face's transformers: the position is in `trainer_state.json`."""

from __future__ import annotations

import json
from pathlib import Path

from resumable.errors import StateError
from resumable.importers.found import Found, items_of, nothing_in, number_of, states_in

__all__ = ["read"]

_FILE = "trainer_state.json"


def read(path: Path, /) -> Found | None:
    """The states in the folder *path*, or in its newest checkpoint; None for what a Trainer has not saved.

    Raises:
        StateError: if it cannot be read, or holds neither a position nor its steps.
    """
    if not path.is_dir():
        return None
    file = path / _FILE
    if not file.is_file():
        steps = [
            (int(each.name.rpartition("-")[2]), each) for each in path.glob("checkpoint-*") if each.name[11:].isdigit()
        ]
        if not steps:
            return None
        file = max(steps)[1] / _FILE
    try:
        content: object = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise StateError("The Trainer's state cannot be read.", [("file", str(file)), ("reason", reason)]) from None
    states, trained = (
        states_in(items_of(content).get("stateful_callbacks")),
        number_of(items_of(content).get("global_step")),
    )
    if not states and trained is None:
        raise nothing_in(path, "stateful_callbacks in trainer_state.json")
    return Found("transformers", path, tuple(states), trained)
