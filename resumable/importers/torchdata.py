"""The state of torchdata's StatefulDataLoader, saved by torch.save: batches of its pass, and no samples.

{"_snapshot": {"_snapshot_step": 7, "_main_snapshot": {...}, ...}, "_steps_since_snapshot": 0}    with workers
{"_sampler_iter_yielded": 7, "_num_yielded": 7, ...}                                              without

Source: torchdata 0.11, torchdata/stateful_dataloader/stateful_dataloader.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resumable.importers.found import Found, FoundState, items_of, number_of, states_in
from resumable.importers.unpickle import load_file

__all__ = ["batches_in", "read"]


def read(path: Path, /) -> Found | None:
    """The state in the file *path*; None for what a StatefulDataLoader has not saved.

    Raises:
        StateError: if it cannot be read.
    """
    if path.is_dir():
        return None
    content = load_file(path)
    batches = batches_in(items_of(content))
    if batches is None:
        return None
    facts = (("batches yielded in its pass", batches),)
    return Found("torchdata", path, (FoundState("the loader", None, None, facts), *states_in(content)))


def batches_in(items: Mapping[Any, object]) -> int | None:
    """The batches of its pass that a StatefulDataLoader's state counts.

    >>> batches_in({"_num_yielded": 7, "_sampler_iter_yielded": 7})
    7
    """
    if "_snapshot" in items:
        snapshot = items_of(items["_snapshot"])
        steps, since = number_of(snapshot.get("_snapshot_step")), number_of(items.get("_steps_since_snapshot"))
        return None if steps is None else steps + (since or 0)
    return number_of(items.get("_num_yielded")) if "_sampler_iter_yielded" in items else None
