"""The command `resumable report`: an audited run as a page or a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from resumable.cli.command import OK, WrongUseError, new_command
from resumable.cli.output import show
from resumable.extras import naming_the_extra

__all__ = ["add_to"]

_SUFFIXES: Final = (".html", ".png", ".svg")


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "report",
        _run,
        summary="show a run as a page or a picture: sessions, kills, resizes, and each epoch's samples",
        description="Draws what each rank wrote while it trained, in the folder of audit=: consumed samples and batch sizes over the "
        "steps, sessions, kills and resizes, and what became of each epoch's samples. An .html is one file that needs no network. "
        "Exit code: 0 where it was written, whether or not the run was exact, 3 where there is no audit.",
        example="""
            resumable report runs/7/audit -o report.html
            resumable report runs/7/audit -o report.png
            """,
        has_json=False,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that audit= names")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the .html, .png or .svg that is written (default: report.html)",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: the folder's path)")


def _run(arguments: argparse.Namespace) -> int:
    output, title = arguments.output, arguments.title or f"Audit of {arguments.folder}"
    if output.suffix not in _SUFFIXES:
        raise WrongUseError(f"-o {output}: the suffix must be one of {', '.join(_SUFFIXES)}.")
    if not output.absolute().parent.is_dir():
        raise WrongUseError(f"-o {output}: there is no folder {output.absolute().parent}.")
    from resumable.audit import read_records, runs_of
    from resumable.report.timeline import timeline_of

    timelines = [timeline_of(run) for run in runs_of(read_records(arguments.folder))]
    with naming_the_extra():
        if output.suffix == ".html":
            from resumable.report.page import page_of

            output.write_text(page_of(timelines, title), encoding="utf-8")
        else:
            from resumable.report.timeline_picture import draw_timelines

            draw_timelines(timelines, title, output)
    show(f"report: {output}")
    return OK
