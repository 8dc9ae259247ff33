"""A checkpoint of Lightning: a file, or the folder of one that is sharded, whose `meta.pt` holds all but the weights.

{"pytorch-lightning_version": "2.6.6", "global_step": 400, "loops": {...}, "MyData": {"consumed_samples": 12800, ...}}
                                                            └ of handed loaders └ of a datamodule, by its class's name
"""

from __future__ import annotations

from pathlib import Path

from resumable.importers.found import Found, items_of, nothing_in, number_of, states_in
from resumable.importers.unpickle import load_file

__all__ = ["read"]

_VERSION = "pytorch-lightning_version"


def read(path: Path, /) -> Found | None:
    """The states in the checkpoint at *path*; None for what Lightning has not saved.

    Raises:
        StateError: if it cannot be read, or holds no position.
    """
    file = path / "meta.pt" if path.is_dir() else path
    if not file.is_file():
        return None
    content = items_of(load_file(file))
    if _VERSION not in content:
        return None
    states = states_in({key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states")})
    if not states:
        raise nothing_in(path, "the state of a decorated datamodule, or of a ResumableLoader in a fit")
    return Found("Lightning", path, tuple(states), number_of(content.get("global_step")))
