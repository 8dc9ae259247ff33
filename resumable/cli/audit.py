"""The command `resumable audit`: the proof that a run trained each sample exactly once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resumable.cli.command import NO, OK, new_command
from resumable.cli.output import Facts, Part, show, show_json

if TYPE_CHECKING:
    from resumable.audit import AuditedRun, Fault

__all__ = ["add_to"]

_MOST: Final = 5
"""Faults of a run that are told."""


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "audit",
        _run,
        summary="prove that a run trained each sample exactly once",
        description="Reads what each rank wrote while it trained, in the folder of audit=, and proves over all sessions, kills and "
        "resizes that each sample was trained exactly once. What a kill undid is undone, not repeated; a fresh start is another "
        "run. Exit code: 0 where that is so, 1 with the first sample that is not, by index and place, 3 where there is no audit.",
        example="""
            resumable audit runs/7/audit
            resumable audit runs/7/audit --json
            """,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that audit= names")


def _run(arguments: argparse.Namespace) -> int:
    from resumable.audit import faults_of, read_records, runs_of

    found = [(run, faults_of(run)) for run in runs_of(read_records(arguments.folder))]
    is_proven = not any(faults for _, faults in found)
    if arguments.json:
        show_json({"exactly_once": is_proven, "runs": [_as_json(run, faults) for run, faults in found]})
    else:
        titles = [f"Run {number}" if len(found) > 1 else "" for number in range(len(found))]
        show(*chain.from_iterable(_parts(title, *each) for title, each in zip(titles, found, strict=True)))
    return OK if is_proven else NO


def _as_json(run: AuditedRun, faults: Sequence[Fault]) -> dict[str, Any]:
    return {
        "consumed_samples": run.ends.consumed_samples,
        "epoch": run.ends.epoch,
        "offset": run.ends.offset,
        "audited_from": run.begins.consumed_samples,
        "sessions": len(run.sessions),
        "killed": sum(session.was_killed for session in run.sessions),
        "undone_samples": run.undone_samples,
        "data_parallel_sizes": [each.session.size for each in run.kept],
        "faults": [{**asdict(fault), "text": str(fault)} for fault in faults],
    }


def _parts(title: str, run: AuditedRun, faults: Sequence[Fault]) -> list[Part]:
    ends, told = run.ends, _as_json(run, faults)
    sizes = [str(size) for size, _ in groupby(told["data_parallel_sizes"])]
    rows = [
        (
            "trained",
            f"{ends.consumed_samples:,} samples: {ends.epoch:,} epochs, and {ends.offset:,} samples of the next",
        ),
        ("sessions", f"{told['sessions']:,}, of which {told['killed']:,} were killed"),
        ("undone", f"{run.undone_samples:,} samples, which a later session trained again from before them"),
        ("ranks", ", then ".join(sizes)),
    ]
    if not faults:
        return [Facts(rows, title), run.verdict]
    more = [f"and {len(faults) - _MOST:,} more places"] if len(faults) > _MOST else []
    return [Facts(rows, title), "Not exactly once.", *map(str, faults[:_MOST]), *more]
