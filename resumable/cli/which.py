"""The command `resumable which`: the samples of a step, and the steps of a sample."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from resumable.cli.command import OK, WrongUseError, new_command
from resumable.cli.output import Facts, Part, Table, show, show_json
from resumable.cli.states import add_checkpoint, state_of
from resumable.saved.snapshot import Snapshot

if TYPE_CHECKING:
    from resumable.history import History, TrainedStep

__all__ = ["add_to"]

_STEPS: Final = re.compile(r"(\d+):(\d+)", re.ASCII)
_SHOWN: Final = 12
"""Indices of a step that a row of several steps shows."""


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "which",
        _run,
        summary="which samples a step trained or will train, and which steps a sample",
        description="Reads off a checkpoint which dataset indices any step trained, or will train if the run goes on as it is, over "
        "resizes and ramps; or each step that trained a sample, and the next one that will. Steps count from 1: step N is the "
        "one after which global_step is N. Exit code: 0, or 3 where the checkpoint does not tell.",
        example="""
            resumable which last.ckpt --step 1200
            resumable which last.ckpt --step 1200 --rank 3
            resumable which last.ckpt --steps 1200:1210 --json
            resumable which last.ckpt --sample 31337
            """,
    )
    add_checkpoint(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--step", type=int, metavar="N", help="the samples of step N, counted from 1")
    asked.add_argument("--steps", metavar="A:B", help="those of the steps from A on, without B")
    asked.add_argument("--sample", type=int, metavar="I", help="the steps that train dataset index I")
    parser.add_argument("--rank", type=int, metavar="R", help="of one data-parallel rank alone")


def _run(arguments: argparse.Namespace) -> int:
    steps = None if arguments.steps is None else _span(arguments.steps)
    if arguments.rank is not None and arguments.sample is not None:
        raise WrongUseError("--rank is for --step and --steps: a sample's steps are those of all ranks.")
    saved: Any = state_of(arguments).snapshot
    from resumable.history import History  # brings torch

    history = History(saved)
    if arguments.sample is not None:
        return _show_sample(history, saved, arguments)
    numbers = [arguments.step] if steps is None else steps
    found = [history.step(number) for number in numbers]
    if arguments.json:
        told = [_as_json(step, arguments.rank) for step in found]
        show_json(told[0] if steps is None else told)
    elif steps is None:
        show(*_parts(found[0], arguments.rank))
    else:
        show(_table(found, arguments.rank))
    return OK


def _span(text: str) -> range:
    found = _STEPS.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        raise WrongUseError(f"--steps {text} is not A:B: write 10:20 for the steps 10 to 19.")
    return range(int(found[1]), int(found[2]))


def _show_sample(history: History, saved: Snapshot, arguments: argparse.Namespace) -> int:
    steps = [history.step(number) for number in history.steps_of(arguments.sample)]
    if arguments.json:
        told = [{"step": step.number, "epoch": step.begins.epoch, "is_past": step.is_past} for step in steps]
        show_json({"sample": arguments.sample, "consumed_samples": saved.consumed_samples, "steps": told})
        return OK
    rows = [(f"{step.number:,}", f"{step.begins.epoch:,}", _when(step)) for step in steps]
    if rows:
        show(Table(("step", "epoch", "when"), rows, f"Sample {arguments.sample:,}"))
    else:
        show(f"Sample {arguments.sample:,} is in no step that can be told.")
    return OK


def _when(step: TrainedStep) -> str:
    return "trained" if step.is_past else "to come"


def _as_json(step: TrainedStep, rank: int | None) -> dict[str, Any]:
    at = step.begins
    return {
        "step": step.number,
        "is_past": step.is_past,
        "begins": {"consumed_samples": at.consumed_samples, "epoch": at.epoch, "offset": at.offset},
        "samples": step.samples,
        "indices": step.indices(rank),
        "padded": list(step.padded),
        "ranks": None if rank is not None else [step.indices(each) for each in range(len(step.ranks))],
    }


def _parts(step: TrainedStep, rank: int | None) -> list[Part]:
    at = step.begins
    facts = Facts(
        [
            ("step", f"{step.number:,}, {_when(step)}"),
            ("begins at", f"sample {at.consumed_samples:,}: epoch {at.epoch:,}, offset {at.offset:,}"),
            ("samples", f"{step.samples:,}"),
            *([("padded", " ".join(map(str, step.padded)))] if step.padded else []),
        ]
    )
    ranks = range(len(step.ranks)) if rank is None else [rank]
    rows = [(f"rank {each}", " ".join(map(str, step.indices(each)))) for each in ranks]
    return [facts, Facts(rows, "Indices")]


def _table(steps: Sequence[TrainedStep], rank: int | None) -> Table:
    rows = [
        (
            f"{step.number:,}",
            f"{step.begins.epoch:,}",
            f"{step.begins.offset:,}",
            _when(step),
            _some(step.indices(rank)),
        )
        for step in steps
    ]
    return Table(("step", "epoch", "offset", "when", "indices"), rows)


def _some(indices: Sequence[int]) -> str:
    more = f" and {len(indices) - _SHOWN:,} more" if len(indices) > _SHOWN else ""
    return " ".join(map(str, indices[:_SHOWN])) + more
