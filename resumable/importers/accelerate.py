"""A folder of `accelerator.save_state`: each prepared loader's state is in `dl_state_dict.bin`, `dl_state_dict_1.bin`, ..."""

from __future__ import annotations

from pathlib import Path

from resumable.importers.found import Found, FoundState, nothing_in, states_in
from resumable.importers.unpickle import load_file

__all__ = ["read"]

_FILES = ("dl_state_dict*.bin", "custom_checkpoint_*.pkl")


def read(path: Path, /) -> Found | None:
    """The states in the folder *path*; None for what accelerate has not saved.

    Raises:
        StateError: if it cannot be read, or holds no position.
    """
    if not path.is_dir():
        return None
    files = [file for pattern in _FILES for file in sorted(path.glob(pattern))]
    has_random_states = any(path.glob("random_states_*.pkl"))
    if not files and not has_random_states:
        return None
    states = list[FoundState]()
    for file in files:
        states += states_in(load_file(file), file.name)
    if not states:
        raise nothing_in(
            path, "dl_state_dict.bin with the state of a ResumableLoader: see resumable.adapters.accelerate"
        )
    return Found("accelerate", path, tuple(states))
