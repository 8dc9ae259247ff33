"""`ResumptionState` as torch.distributed.checkpoint's `Stateful`: it loads what another state saved, whatever its own shape."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

from resumable import ConstantBatchSize, ResumptionState
from tests.support.reference import Loader


def loader(batch_size: int = 4, **options: Any) -> Any:
    """One of the run's loaders."""
    return Loader(range(40), batch_size=batch_size, shuffle=True, seed=3, **options)


def going_on(before: Any, after: Any, batches: int) -> Any:
    """*after*, gone on from *before* for so many batches."""
    if before is not None:
        after.load_state_dict(before.state_dict())
    iterator = iter(after)
    for _ in range(batches):
        next(iterator)
    after.state.commit()
    return after


def three_stretches() -> Any:
    """A loader whose run has changed twice."""
    one = going_on(None, loader(), 3)
    two = going_on(one, loader(2), 2)
    return going_on(two, loader(2, schedule=ConstantBatchSize(4)), 2)


def test_any_state_loads_what_any_other_saved(tmp_path: Path) -> None:
    """Untrained, with one stretch or three; into a bare state, a fresh loader, another one, one that knows more."""
    saving = {"none": loader(), "one": going_on(None, loader(), 3), "three": three_stretches()}
    expected: dict[str, object] = {}
    actual: dict[str, object] = {}
    for name, saved in saving.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no process group
            dcp.save({"data": saved.state}, checkpoint_id=tmp_path / name)  # type: ignore[attr-defined]
        loading = {
            "bare": ResumptionState(),
            "fresh": loader().state,
            "other": loader(2, schedule=ConstantBatchSize(4)).state,
            "longer": going_on(three_stretches(), loader(5), 1).state,
        }
        for kind, state in loading.items():
            expected[f"{name} into {kind}"] = saved.state.position, saved.state.ledger
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dcp.load({"data": state}, checkpoint_id=tmp_path / name)  # type: ignore[attr-defined]
            actual[f"{name} into {kind}"] = state.position, state.ledger
    assert expected == actual
