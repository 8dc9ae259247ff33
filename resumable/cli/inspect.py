"""The command `resumable inspect`: the position that a checkpoint holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resumable.cli.command import OK, new_command
from resumable.cli.output import Facts, Part, Table, show, show_json
from resumable.errors import ResumptionError
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.schedule_format import UserSchedule, dump_schedule
from resumable.saved.snapshot import Snapshot, dump
from resumable.steps.batch_plan import UNBOUNDED

if TYPE_CHECKING:
    from resumable.importers import Found, FoundState

__all__ = ["add_to"]


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "inspect",
        _run,
        summary="show the position of a checkpoint: samples, epoch, schedule, ranks, ledger",
        description="Reads the position out of a state file, a checkpoint of Lightning, a folder of NeMo 2, Megatron-LM, "
        "Megatron-Bridge, torch.distributed.checkpoint, accelerate or transformers, a state of torchdata, or any file of "
        "torch.save that holds one. Nothing that a checkpoint names is run. Where only steps are known, steps are shown. "
        "Exit code: 0, or 3 where no position could be read.",
        example="""
            resumable inspect state.json
            resumable inspect lightning_logs/version_0/checkpoints/last.ckpt
            resumable inspect checkpoint-500 --json
            """,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the file or folder")


def _run(arguments: argparse.Namespace) -> int:
    from resumable.importers import read

    found = read(arguments.path)
    if arguments.json:
        show_json(_as_json(found))
    else:
        steps = [] if found.steps is None else [("steps", f"{found.steps:,}")]
        parts: list[Part] = [Facts([("saved by", found.tool), ("path", str(found.path)), *steps])]
        for state in found.states:
            parts += _parts(state)
        show(*parts)
    return OK


# -- for programs


def _as_json(found: Found) -> dict[str, Any]:
    return {
        "tool": found.tool,
        "path": str(found.path),
        "steps": found.steps,
        "states": [_state_as_json(state) for state in found.states],
    }


def _state_as_json(state: FoundState) -> dict[str, Any]:
    made: dict[str, Any] = {"name": state.name, **dict(state.facts)}
    saved = state.snapshot
    if saved is not None:
        stage = _stage(saved)
        made |= {
            "state": dump(saved),
            "progress": _progress(saved),
            "stage": None if stage is None else stage._asdict(),
        }
    return made


# -- for people


def _parts(state: FoundState) -> list[Part]:
    title = state.name or "the state"
    saved = state.snapshot
    if saved is None:
        return [Facts([(name, f"{value:,}") for name, value in state.facts], title)]
    rows = [("consumed samples", f"{saved.consumed_samples:,}")]
    if saved.epoch is not None and saved.offset is not None:
        rows += [("epoch", f"{saved.epoch:,}"), ("offset", _offset(saved))]
    if saved.global_step is not None:
        rows.append(("global step", f"{saved.global_step:,}"))
    if saved.order is not None:
        seed = "" if saved.order.seed is None else f", seed {saved.order.seed}"
        rows.append(("order", f"{saved.order.kind}, {saved.order.length:,} samples{seed}"))
    rows += _configuration(saved)
    if saved.canary is not None:
        rows.append(("canary", saved.canary))
    parts: list[Part] = [Facts(rows, title)]
    if saved.loaders:
        columns = ("loader", "epoch", "offset", "order")
        loaders = [
            (str(number), f"{at.epoch:,}", f"{at.offset:,}", "a stream" if at.order is None else f"{at.order.kind}, {at.order.length:,}")
            for number, at in enumerate(saved.loaders)
        ]  # fmt: skip
        parts.append(Table(columns, loaders, "Loaders"))
    return [*parts, *([_ledger(saved.ledger)] if len(saved.ledger) else [])]


def _offset(saved: Snapshot) -> str:
    progress = _progress(saved)
    if progress is None:
        return f"{saved.offset:,}"
    return f"{saved.offset:,} of {progress['of']:,} samples ({progress['percent']:.1f} %)"


def _progress(saved: Snapshot) -> dict[str, Any] | None:
    """How far the epoch has come; None where its length is unknown."""
    lengths = [each.length for each in saved.ledger.stretches[-1:] if each.length < UNBOUNDED]
    length = lengths[0] if lengths else None if saved.order is None else saved.order.length
    if saved.offset is None or not length:
        return None
    return {"offset": saved.offset, "of": length, "percent": 100 * saved.offset / length}


def _configuration(saved: Snapshot) -> list[tuple[str, str]]:
    if not saved.ledger.stretches:
        return []
    last = saved.ledger.stretches[-1]
    rows = [
        (
            "ranks",
            f"{last.data_parallel_size:,} x micro batch {last.micro_batch_size:,}, accumulation {last.accumulation:,}",
        ),
        (
            "end of an epoch",
            {False: "trains its tail", True: "drops its tail", "carry": "carries its tail on"}[last.drop_last],
        ),
        ("workers", f"{last.num_workers:,}"),
    ]
    if last.schedule is not None:
        stage = _stage(saved)
        now = (
            "" if stage is None else f", now {stage.size:,}" + ("" if stage.stop is None else f" up to {stage.stop:,}")
        )
        rows.append(("schedule", f"{_words(last)}{now}"))
    if last.reseed is not None:
        rows.append(("random numbers", f"follow the position, from seed {last.reseed}"))
    return rows


def _words(stretch: Stretch) -> str:
    form = dump_schedule(stretch.schedule)
    return form if isinstance(form, str) else " ".join(map(str, form or ()))


def _stage(saved: Snapshot) -> Any:
    """The stage of the schedule that the next step is in; None without one that is known."""
    schedule = saved.ledger.stretches[-1].schedule if saved.ledger.stretches else None
    if schedule is None or isinstance(schedule, UserSchedule):
        return None
    try:
        return next(schedule.stages_from(saved.consumed_samples))
    except ResumptionError:  # a size that no step can take
        return None


def _ledger(ledger: Ledger) -> Table:
    columns = ("from step", "sample", "epoch", "offset", "ranks", "micro batch", "accumulation", "schedule")
    rows = [
        (
            *(f"{each:,}" for each in (at.step, at.sample, at.epoch, at.offset)),
            *(f"{each:,}" for each in (at.data_parallel_size, at.micro_batch_size, at.accumulation)),
            _words(at) or "-",
        )
        for at in ledger
    ]
    return Table(columns, rows, "Ledger")
