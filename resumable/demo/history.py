"""What a run left in its folder, read back as plain values, and how it differs from the uninterrupted run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from resumable.demo.settings import Settings
from resumable.report import Run, Session, Step

__all__ = ["AUDIT", "CHECKPOINT", "Job", "differences", "read_run", "session_log"]

AUDIT: Final = "audit"
CHECKPOINT: Final = "last.ckpt"
_SHOWN: Final = 3  # of a long list of differences


@dataclass(frozen=True, slots=True)
class Job:
    """What one training process gets: the *session* counts the processes of its run from 0."""

    folder: Path
    datamodule: str
    session: int
    settings: Settings


def session_log(folder: Path, session: int, /) -> Path:
    """Where the process number *session* of the run in *folder* logs its steps.

    >>> session_log(Path("run"), 2).name
    'session-2.jsonl'
    """
    return folder / f"session-{session}.jsonl"


def _read_session(path: Path, *, reached: int, killed: bool) -> Session:
    """The session that *path* logs; one that ended before it trained begins at *reached*, where the run was."""
    logged = path.read_bytes() if path.exists() else b""
    whole, _, _torn = logged.rpartition(b"\n")  # a kill can tear the last line; no checkpoint holds its step
    head, *entries = [json.loads(line) for line in whole.splitlines()] or [{"step": reached}]
    steps = tuple(Step(entry["epoch"], tuple(entry["indices"])) for entry in entries)
    return Session(head["step"], steps, killed=killed)


def read_run(name: str, folder: Path, settings: Settings, /, *, sessions: int) -> Run:
    """The run of *sessions* processes that is complete in *folder*; all but the last were killed."""
    found: list[Session] = []
    for number in range(sessions):
        reached = found[-1].stop_step if found else 0
        found.append(_read_session(session_log(folder, number), reached=reached, killed=number < sessions - 1))
    result = json.loads((folder / "result.json").read_text())
    return Run(name, settings.samples, settings.epochs, tuple(found), result["final_loss"], result["weights_digest"])


def _some(found: list[str]) -> list[str]:
    rest = len(found) - _SHOWN
    return found[:_SHOWN] + ([f"... and {rest:,} more like these"] if rest > 0 else [])


def _miscounted(run: Run) -> list[str]:
    times = Counter((step.epoch, index) for _, step in run.history() for index in step.indices)
    wanted = {(epoch, index) for epoch in range(run.epochs) for index in range(run.samples)}
    return [
        f"epoch {epoch}, index {index}: trained {times[epoch, index]} times instead of {int((epoch, index) in wanted)}"
        for epoch, index in sorted(wanted | times.keys())
        if times[epoch, index] != int((epoch, index) in wanted)
    ]


def _words(step: Step | None) -> str:
    if step is None:
        return "nothing"
    return f"{', '.join(map(str, step.indices[:_SHOWN]))}{', ...' * (len(step.indices) > _SHOWN)} (epoch {step.epoch})"


def _disordered(run: Run, reference: Run) -> list[str]:
    pairs = zip_longest((step for _, step in run.history()), (step for _, step in reference.history()))
    return [
        f"step {number}: trained {_words(step)} instead of {_words(wanted)}"
        for number, (step, wanted) in enumerate(pairs)
        if step != wanted
    ]


def differences(run: Run, reference: Run, /, *, kills: int) -> list[str]:
    """How *run*, killed *kills* times, differs from *reference*, which nothing interrupted.

    Empty if every sample was trained once in every epoch, in *reference*'s order, and loss and weights are equal to the
    last bit.

    >>> whole = Run("a", 2, 1, (Session(0, (Step(0, (1, 0)),)),))
    >>> differences(Run("b", 2, 1, (Session(0, (Step(0, (0, 1)),)),)), whole, kills=0)
    ['step 0: trained 0, 1 (epoch 0) instead of 1, 0 (epoch 0)']
    """
    found = _some(_miscounted(run)) + _some(_disordered(run, reference))
    if run.final_loss != reference.final_loss:
        found.append(f"final loss: {run.final_loss!r} instead of {reference.final_loss!r}")
    if run.weights_digest != reference.weights_digest:
        found.append(f"weights, SHA-256: {run.weights_digest} instead of {reference.weights_digest}")
    if run.kills != kills:
        found.append(f"kills: {run.kills} instead of {kills}, since the run ended before the next")
    return found
