"""A checkpoint of Megatron-Bridge: `train_state.pt`, in the folder of an iteration or of all.

{"step": tensor(100), "consumed_train_samples": tensor(51200), "consumed_valid_samples": tensor(0), ...}

Source: Megatron-Bridge, training/state.py, `TrainState`.
"""

from __future__ import annotations

from pathlib import Path

from resumable.importers.found import Found, FoundState, items_of, nothing_in, number_of
from resumable.importers.unpickle import load_file
from resumable.saved.snapshot import Snapshot

__all__ = ["read"]

_NAMES = ("train_state.pt", "latest_train_state.pt")
_COUNTS = {"consumed_train_samples": "train", "consumed_valid_samples": "validation"}


def read(path: Path, /) -> Found | None:
    """The counts in the file or folder *path*; None for what Megatron-Bridge has not saved.

    Raises:
        StateError: if it cannot be read, or counts no samples.
    """
    files = [path / name for name in _NAMES] if path.is_dir() else [path] if path.name in _NAMES else []
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        return None
    items = items_of(load_file(file))
    states = [
        FoundState(name, Snapshot(count, None, None), {"consumed_samples": count})
        for key, name in _COUNTS.items()
        for count in [number_of(items.get(key))]
        if count is not None and (count or name == "train")
    ]
    if not states:
        raise nothing_in(path, "consumed_train_samples in train_state.pt")
    return Found("Megatron-Bridge", path, tuple(states), number_of(items.get("step")))
