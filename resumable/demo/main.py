"""The demo from start to end: three runs side by side, their progress, the table, the picture, and the verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from resumable.audit import read_records, runs_of
from resumable.demo.arms import Arm, DemoError, Progress, fork_server, run_arm
from resumable.demo.history import AUDIT, differences
from resumable.report import counts
from resumable.report.page import page_of
from resumable.report.picture import draw
from resumable.report.table import as_table
from resumable.report.timeline import timeline_of

if TYPE_CHECKING:
    from rich.progress import TaskID

    from resumable.demo.settings import Settings
    from resumable.report import Run

__all__ = ["ARMS", "run_demo"]

# The others are compared with the first. The second must be exact.
ARMS: Final = (
    Arm("uninterrupted", "ResumableText", killed=False),
    Arm("@resumable", "ResumableText"),
    Arm("plain DataLoader", "PlainText"),
)
_LOOK_EVERY_S: Final = 0.002  # an optimizer step takes some ten times as long


def _state(doing: str, killed: int, kills: int) -> str:
    return f"{doing}, killed {killed}/{kills}" if kills else doing


def _look(training: Generator[Progress, None, Run], bars: Bars, bar: TaskID, kills: int) -> Run | None:
    """Move *bar* to where *training* is. Return its run once that is complete, and None before."""
    try:
        progress = next(training)
    except StopIteration as end:
        run: Run = end.value
        return run
    bars.update(bar, state=_state("training" if progress.trains else "starting", progress.kills, kills))
    if progress.trains:
        bars.update(bar, completed=progress.steps)
    return None


def _train(arms: Sequence[Arm], settings: Settings, folder: Path, console: Console) -> list[Run]:
    """Run all *arms* at once, each in a folder of its own, with a bar for each."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("step {task.completed:>3.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[state]:<20}"),
        TimeElapsedColumn(),
    )
    context = fork_server()
    runs: dict[Arm, Run] = {}
    with Bars(*columns, console=console, expand=True) as bars, ExitStack() as stack:
        going: dict[Arm, tuple[Generator[Progress, None, Run], TaskID]] = {}
        for number, arm in enumerate(arms):
            place = folder / str(number)
            place.mkdir()
            training = stack.enter_context(closing(run_arm(arm, settings, place, context)))
            going[arm] = training, bars.add_task(arm.name, total=settings.steps, state="starting")
        while going:
            for arm, (training, bar) in tuple(going.items()):
                kills = settings.kills if arm.killed else 0
                run = _look(training, bars, bar, kills)
                if run is not None:
                    runs[arm] = run
                    bars.update(bar, completed=settings.steps, state=_state("done", run.kills, kills))
                    bars.stop_task(bar)
                    del going[arm]
            time.sleep(_LOOK_EVERY_S)
    return [runs[arm] for arm in arms]


def _write_result(path: Path, settings: Settings, runs: Sequence[Run], found: Sequence[str], seconds: float) -> None:
    """What the table shows and what was found, as JSON."""
    result = {
        "exact": not found,
        "differences": list(found),
        "settings": asdict(settings),
        "runs": [
            {
                "name": run.name,
                **asdict(counts(run)),
                "final_loss": run.final_loss,
                "weights_sha256": run.weights_digest,
                "sessions": [
                    {"start_step": session.start_step, "stop_step": session.stop_step, "killed": session.killed}
                    for session in run.sessions
                ],
            }
            for run in runs
        ],
        "versions": {"python": python_version(), **{name: version(name) for name in ("torch", "lightning")}},
        "seconds": round(seconds, 1),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


def _write_page(audit: Path, path: Path) -> None:
    """What @resumable wrote of its run, as `resumable report` shows it."""
    timelines = [timeline_of(run) for run in runs_of(read_records(audit))]
    path.write_text(page_of(timelines, "resumable demo: the run with @resumable"), encoding="utf-8")


def run_demo(settings: Settings, out: Path, /, *, arms: Sequence[Arm] = ARMS, console: Console | None = None) -> int:
    """Train, kill and resume as *settings* say; write `demo.png`, `report.html` and `result.json` to *out*; return the exit code.

    It is 0 if the second of *arms* was exact, and 1 if it was not or a process failed. The console shows what differed.
    """
    console = Console() if console is None else console
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="resumable-demo-") as folder:
        try:
            runs = _train(arms, settings, Path(folder), console)
        except DemoError as error:
            console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            return 1
        if (audit := Path(folder) / "1" / AUDIT).exists():
            _write_page(audit, out / "report.html")
    reference, exact = runs[:2]
    found = [f"{reference.name}: {line}" for line in differences(reference, reference, kills=0)]
    found += [f"{exact.name}: {line}" for line in differences(exact, reference, kills=settings.kills)]
    console.print(as_table(runs))
    draw(runs, out / "demo.png")
    _write_result(out / "result.json", settings, runs, found, time.monotonic() - began)
    if found:
        console.print("Not exact:", style="bold red")
        for line in found:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(
            f"Exact. Kills: {settings.kills}. {exact.name} trained every sample of every epoch once, in the order of the run "
            "without a kill, and with its dropout and its random crops. It ended with the same loss and weights, to the last bit.",
            style="green",
            highlight=False,
        )
    console.print(
        f"Picture: {out / 'demo.png'}",
        f"Page: {out / 'report.html'}",
        f"Figures: {out / 'result.json'}",
        sep="\n",
        markup=False,
        highlight=False,
    )
    return 1 if found else 0
