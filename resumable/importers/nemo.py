"""A checkpoint of NeMo 2: a folder with `weights/`, which megatron-core has written.

weights/common.pt      what all ranks share: Lightning's counters, and the datamodule's {"consumed_samples": n}
weights/.metadata      newer releases keep that as `common_state` among the shards

Source: NeMo 2.4.0 (nemo/lightning/io), and megatron-core 0.16.1 (dist_checkpointing).
"""

from __future__ import annotations

from pathlib import Path

from resumable.importers import dcp
from resumable.importers.found import Found, FoundState, items_of, nothing_in, number_of, states_in
from resumable.importers.unpickle import load_file

__all__ = ["read"]


def read(path: Path, /) -> Found | None:
    """The states in the folder *path*, or in its `weights`; None for what NeMo has not saved.

    Raises:
        StateError: if it cannot be read, or holds no position.
    """
    if not path.is_dir():
        return None
    weights = path / "weights" if (path / "weights").is_dir() else path
    common = weights / "common.pt"
    if not common.is_file() and weights is path:
        return None
    content = load_file(common) if common.is_file() else dcp.common_state(weights)
    items = items_of(content)
    if "args" in items:
        return None  # Megatron-LM's
    states = list[FoundState]()
    for key, value in items.items():
        if key not in ("state_dict", "optimizer", "optimizer_states", "sharded_state_dict"):
            states += states_in(value, str(key))
    if not states:
        raise nothing_in(path, "the consumed_samples of a datamodule in weights/common.pt")
    return Found("NeMo", path, tuple(states), number_of(items.get("global_step")))
