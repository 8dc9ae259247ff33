"""The command `resumable plan`: what a run will look like, before it begins."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from resumable.checks import whole_number
from resumable.cli.command import NO, OK, WrongUseError, in_one_line, new_command
from resumable.cli.output import Facts, Part, Table, show, show_json
from resumable.errors import ConfigurationError
from resumable.extras import naming_the_extra
from resumable.forecast import EpochRow, Forecast, Resize, forecast
from resumable.forecast import Part as Forecasted
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.saved.schedule_format import ledger_schedule
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule
from resumable.verdict import Difference

__all__ = ["add_to"]

_COUNT: Final = re.compile(r"(\d+)([KMBT]?)", re.ASCII)
_RESIZE: Final = re.compile(r"(\d+):(\d+)(?:x(\d+))?", re.ASCII)


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "plan",
        _run,
        summary="what a run will look like: steps, batch sizes, tails, and what a resize changes",
        description="Shows the optimizer steps of a run, before it begins: how many an epoch has, when each batch size begins, what "
        "the tail of an epoch drops or pads, and what a resize at a step changes, with the verdict of resuming there. "
        "Exit code: 0 where every resize is exact (in another grouping too), 1 where one is not, 2 for wrong use.",
        example="""
            resumable plan --samples 1000000 --micro-batch-size 8 --data-parallel-size 16 --epochs 3
            resumable plan --samples 1000000 --micro-batch-size 4 --data-parallel-size 8 --global-batch-size 512 --rampup 64 64 200000
            resumable plan --samples 1000000 --micro-batch-size 4 --data-parallel-size 8 --global-batch-size 512 --resize 800:16x2
            resumable plan --samples 200M --micro-batch-size 4 --data-parallel-size 64 --schedule "0:768 250B:1536" --seq-length 4096 --plot
            """,
    )
    add = parser.add_argument
    add("--samples", required=True, type=_count, metavar="N", help="samples of the dataset; 200M is 200,000,000")
    add("--micro-batch-size", required=True, type=int, metavar="B", help="samples of a batch on one rank")
    add("--data-parallel-size", required=True, type=int, metavar="R", help="how many ranks share the data")
    add("--global-batch-size", type=int, metavar="G", help="samples of an optimizer step (default: B * R)")
    add(
        "--rampup",
        nargs=3,
        metavar=("START", "INCREMENT", "SAMPLES"),
        help="Megatron's rampup_batch_size, up to --global-batch-size",
    )
    add("--schedule", metavar="TEXT", help='batch sizes from thresholds on, as "0:768 250B:1536"')
    add("--seq-length", type=int, metavar="L", help="tokens of a sample: the schedule's thresholds are then tokens")
    add("--decrease-batch-size-if-needed", action="store_true", help="round batch sizes down to whole micro batches")
    add(
        "--drop-last",
        nargs="?",
        const="true",
        default="false",
        choices=("true", "false", "carry"),
        help="leave out the tail of an epoch, or carry it into the next (default: false)",
    )
    add("--epochs", type=int, default=1, metavar="E", help="how often the dataset is trained (default: 1)")
    add(
        "--resize",
        action="append",
        default=[],
        metavar="STEP:R[xB]",
        help="after STEP steps, go on with R ranks (and micro batches of B); may be given several times",
    )
    add(
        "--plot",
        nargs="?",
        const=Path("plan.png"),
        type=Path,
        metavar="FILE",
        help="draw the batch sizes into a .png or .svg (default: plan.png)",
    )


def _run(arguments: argparse.Namespace) -> int:
    try:
        schedule = _schedule(arguments)
        stretch = _stretch(arguments, schedule)
        resizes = [_resize(text, stretch) for text in arguments.resize]
        made = forecast(stretch, epochs=whole_number("epochs", arguments.epochs, least=1), resizes=resizes)
    except ConfigurationError as error:
        raise WrongUseError(in_one_line(error)) from None
    if arguments.plot is not None:
        if arguments.plot.suffix not in (".png", ".svg"):
            raise WrongUseError(f"--plot {arguments.plot}: the picture is a .png or a .svg.")
        _draw(made, arguments.plot)
    if arguments.json:
        show_json(_as_json(made))
    else:
        show(*_parts(made), *([f"picture: {arguments.plot}"] if arguments.plot is not None else []))
    return OK if all(part.verdict is None or part.verdict.is_exact for part in made.parts) else NO


def _draw(made: Forecast, path: Path) -> None:
    with naming_the_extra():
        from resumable.report.plan_picture import draw_plan
    draw_plan(made, path)


def _count(text: str) -> int:
    found = _COUNT.fullmatch(text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"invalid number: {text!r} (write 200000000, or 200M)")
    digits, unit = found.groups()
    zeros = 3 * " KMBT".index(unit or " ")
    return int(digits + "0" * zeros)


def _schedule(arguments: argparse.Namespace) -> PiecewiseSchedule | None:
    rampup, text = arguments.rampup, arguments.schedule
    size: int | None = arguments.global_batch_size
    if text is not None and (size is not None or rampup is not None):
        raise WrongUseError("--schedule says all batch sizes: leave --global-batch-size and --rampup out.")
    if arguments.seq_length is not None and text is None:
        raise WrongUseError("--seq-length is for the thresholds of --schedule: add it, or leave --seq-length out.")
    if text is not None:
        return StepSchedule.parse(text, arguments.seq_length)
    if rampup is not None:
        if size is None:
            raise WrongUseError("--rampup leads up to a batch size: add --global-batch-size.")
        return LinearRampup.from_megatron(rampup, size)
    return None if size is None else ConstantBatchSize(size)


def _stretch(arguments: argparse.Namespace, schedule: PiecewiseSchedule | None) -> Stretch:
    micro = whole_number("--micro-batch-size", arguments.micro_batch_size, least=1)
    ranks = whole_number("--data-parallel-size", arguments.data_parallel_size, least=1)
    if arguments.decrease_batch_size_if_needed and schedule is not None:
        schedule = DivisibleSchedule(schedule, micro * ranks)
    tail: Any = {"true": True, "false": False}.get(arguments.drop_last, arguments.drop_last)
    length = whole_number("--samples", arguments.samples, least=1)
    return Stretch(
        length=length,
        micro_batch_size=micro,
        data_parallel_size=ranks,
        drop_last=tail,
        schedule=None if schedule is None else ledger_schedule(schedule),
    )


def _resize(text: str, stretch: Stretch) -> Resize:
    found = _RESIZE.fullmatch(text)
    if found is None:
        raise WrongUseError(f"--resize {text} is not STEP:R or STEP:RxB: write 800:16, or 800:16x2.")
    step, ranks, micro = found.groups()
    size = stretch.micro_batch_size if micro is None else int(micro)
    if not int(ranks) or not size:
        raise WrongUseError(f"--resize {text}: a run needs at least one rank, and one sample in a micro batch.")
    return Resize(int(step), int(ranks), size)


# -- what is shown


def _parts(made: Forecast) -> list[Part]:
    first = made.parts[0].stretch
    facts = Facts(
        [
            ("samples", f"{first.length:,}"),
            *_sizes(first),
            ("steps", f"{made.total_steps:,}"),
            ("consumed samples", f"{made.ends.consumed_samples:,}"),
        ]
    )
    shown: list[Part] = [facts, _epochs(made.epochs)]
    if len(made.stages) > 1:
        rows = [
            (row.first_step, row.begins.consumed_samples, row.begins.epoch, row.batch_size, row.rounds)
            for row in made.stages
        ]
        columns = ("from step", "from sample", "epoch", "global batch", "micro batches")
        shown.append(Table(columns, [[f"{each:,}" for each in row] for row in rows], title="Batch sizes"))
    return [*shown, *map(_resized, made.parts[1:])]


def _sizes(stretch: Stretch) -> list[tuple[str, str]]:
    ranks, micro = stretch.data_parallel_size, stretch.micro_batch_size
    return [
        ("data-parallel ranks", f"{ranks:,}"),
        ("micro batch", f"{micro:,} samples"),
        ("a round", f"{ranks * micro:,} samples: a micro batch on each rank"),
    ]


def _epochs(rows: Sequence[EpochRow]) -> Table:
    """The epochs, with the columns of the tail that say something."""
    names = ("epochs", "steps of each", "samples", "last step", "dropped", "padded")
    cells = [[_span(row), *(f"{each:,}" for each in row[2:])] for row in rows]
    kept = [at for at, name in enumerate(names) if at < 4 or any(getattr(row, name) for row in rows)]
    return Table([names[at] for at in kept], [[row[at] for at in kept] for row in cells], title="Epochs")


def _span(row: EpochRow) -> str:
    return f"{row.epoch}" if row.epochs == 1 else f"{row.epoch} to {row.epoch + row.epochs - 1}"


def _resized(part: Forecasted) -> Facts:
    stretch, verdict = part.stretch, part.verdict
    at, ranks = stretch.begins, stretch.data_parallel_size
    rows = [
        ("at", f"sample {at.consumed_samples:,}: epoch {at.epoch}, offset {at.offset:,}"),
        ("a round", f"{stretch.batching.batch_size:,} samples: {ranks:,} ranks x {stretch.micro_batch_size:,}"),
        ("steps to the end", f"{part.left:,} (without the resize: {part.left_before:,})"),
        ("verdict", str(verdict).partition("\n")[0]),
    ]
    if verdict is not None:
        rows += [("", _in_words(each)) for each in verdict.differences]
    return Facts(rows, title=f"Resize after step {stretch.step:,}")


def _in_words(difference: Difference) -> str:
    values = (
        "" if str(difference.saved) == str(difference.current) else f" ({difference.saved} -> {difference.current})"
    )
    return f"{difference.what[:-1]}{values}. {' '.join(difference.advice.split())}"


def _as_json(made: Forecast) -> dict[str, Any]:
    first = made.parts[0].stretch
    return {
        "samples": first.length,
        "micro_batch_size": first.micro_batch_size,
        "data_parallel_size": first.data_parallel_size,
        "drop_last": first.drop_last,
        "total_steps": made.total_steps,
        "consumed_samples": made.ends.consumed_samples,
        "epochs": [row._asdict() for row in made.epochs],
        "stages": [
            {"first_step": row.first_step, **_position(row.begins), "batch_size": row.batch_size, "micro_batches": row.rounds}
            for row in made.stages
        ],
        "resizes": [
            {
                "step": part.stretch.step,
                **_position(part.stretch.begins),
                "micro_batch_size": part.stretch.micro_batch_size,
                "data_parallel_size": part.stretch.data_parallel_size,
                "steps_left": part.left,
                "steps_left_without": part.left_before,
                "verdict": None if part.verdict is None else part.verdict.outcome,
                "differences": [] if part.verdict is None else [asdict(each) for each in part.verdict.differences],
            }
            for part in made.parts[1:]
        ],
    }  # fmt: skip


def _position(at: Position) -> dict[str, int]:
    return {"consumed_samples": at.consumed_samples, "epoch": at.epoch, "offset": at.offset}
