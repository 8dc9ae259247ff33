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


def test_a_state_that_is_written_while_the_training_goes_on_is_that_of_the_call(tmp_path: Path) -> None:
    """By `async_save`, and for a loader as well as for its state; a bare state carries it on, and into a loader again."""
    for name in ("state", "loader"):
        one = going_on(None, loader(), 3)
        batches = one.forever()
        expected = one.state_dict()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saving: Any = dcp.async_save(  # type: ignore[attr-defined]
                {"data": one if name == "loader" else one.state}, checkpoint_id=tmp_path / name, no_dist=True
            )
            for _ in range(9):  # over the end of an epoch
                next(batches)
                one.commit()
            saving.result()
            bare, again = ResumptionState(), loader(2)
            dcp.load({"data": bare}, checkpoint_id=tmp_path / name, no_dist=True)  # type: ignore[attr-defined]
            assert expected == bare.state_dict()
            dcp.save({"data": bare}, checkpoint_id=tmp_path / f"{name}-bare", no_dist=True)  # type: ignore[attr-defined]
            dcp.load({"data": again}, checkpoint_id=tmp_path / f"{name}-bare", no_dist=True)  # type: ignore[attr-defined]
        assert expected == again.state_dict()
        assert [index for batch in whole_from(expected) for index in batch] == [
            index for _, batch in zip(range(14), again.forever(), strict=False) for index in batch.tolist()
        ]


def whole_from(state: Any) -> list[list[int]]:
    """The batches that follow *state* in the run's own batch size, up to the epoch's end."""
    one = loader()
    one.load_state_dict(state)
    return [batch.tolist() for batch in one]
