"""Any other file of torch.save, or a pickle: a loop's own checkpoint, with a position somewhere in it."""

from __future__ import annotations

from pathlib import Path

from resumable.importers.found import Found, items_of, nothing_in, number_of, states_in
from resumable.importers.unpickle import load_file

__all__ = ["read"]

_STEPS = ("global_step", "step", "steps", "iteration")


def read(path: Path, /) -> Found | None:
    """The states in the file *path*; None for a folder.

    Raises:
        StateError: if it cannot be read, or holds no position.
    """
    if path.is_dir():
        return None
    content = load_file(path)
    states = states_in(content)
    if not states:
        raise nothing_in(path, "loader.state_dict(), or a count consumed_samples, under any key")
    counts = [number_of(items_of(content).get(name)) for name in _STEPS]
    return Found("torch.save", path, tuple(states), next((count for count in counts if count is not None), None))
