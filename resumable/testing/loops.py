"""The loop in which `check_resume` trains a loader, as a careful user writes it; and the user's own.

for epoch in range(saved epoch, epochs):
    set_epoch(epoch)                 on the loader, its samplers and its dataset, where they have it
    for batch in loader:
        ...                          every `accumulation` batches, and at the epoch's end, an optimizer step
        commit()                     where the loader has it
        save(epoch, state_dict())    where it has one; otherwise the epoch alone
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resumable.decorator import is_resumable, resumption_of
from resumable.testing.sessions import Kill, Run

__all__ = ["train_loader", "train_loop"]


def train_loop(run: Run) -> None:
    """Train the user's own loop, until it ends or *run* is to stop."""
    recorder = run.recorder
    if run.state is not None:
        run.made.load_state_dict(run.state)

    def step(*batches: object, epoch: int = 0) -> None:
        for batch in batches:
            recorder.read(batch)
        recorder.step(epoch)
        if recorder.is_due("after a step"):
            recorder.save(run.made.state_dict())

    if recorder.is_due("after a step"):
        recorder.save(run.made.state_dict())
    run.made.run(step)


def train_loader(run: Run) -> None:
    """Train a loader, or the train loader of a datamodule that is not Lightning's, in this module's loop."""
    begin = 0
    if run.state is not None:
        begin = run.state["epoch"]
        if run.state["loader"] is not None:
            run.made.load_state_dict(run.state["loader"])
    loader = run.made.train_dataloader() if hasattr(run.made, "train_dataloader") else run.made
    begin = _own_epoch(run.made, loader, begin)
    commit = _commit_of(run.made)
    if run.state is None:
        commit()
    if run.recorder.is_due("after a step"):
        _save(run, begin)
    for epoch in range(begin, run.epochs):
        _set_epoch(loader, epoch)
        _train_epoch(run, loader, epoch, commit)


def _train_epoch(run: Run, loader: Any, epoch: int, commit: Callable[[], object]) -> None:
    recorder = run.recorder
    try:
        for batch in loader:
            recorder.read(batch)
            if len(recorder.pending) == run.accumulation:
                commit()
                recorder.step(epoch)
                if recorder.is_due("after a step"):
                    _save(run, epoch)
    except Kill:
        _save(run, epoch)
        raise
    if recorder.pending:
        commit()
        recorder.step(epoch)
        if recorder.is_due("after a step"):
            _save(run, epoch + 1)
    if recorder.is_due("epoch end"):
        _save(run, epoch + 1)


def _save(run: Run, epoch: int) -> None:
    saves = getattr(run.made, "state_dict", None)
    run.recorder.save({"epoch": epoch, "loader": saves() if saves else None})


def _own_epoch(owner: Any, loader: Any, saved: int) -> int:
    """The epoch in which the loop begins: the loader's own, where it counts them."""
    if is_resumable(owner):
        return resumption_of(owner).position.epoch
    own = getattr(loader, "epoch", None)
    return own if isinstance(own, int) else saved


def _commit_of(owner: Any) -> Callable[[], object]:
    if is_resumable(owner):
        return resumption_of(owner).commit
    commit: Callable[[], object] = getattr(owner, "commit", lambda: None)
    return commit


def _set_epoch(loader: Any, epoch: int) -> None:
    parts = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))]
    for part in parts:
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
