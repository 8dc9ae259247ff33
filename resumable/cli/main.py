"""The command `resumable`: so far one subcommand, `demo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from resumable.cli.demo import _demo

__all__ = ["main"]

_INTERRUPTED: Final = 130  # 128 + SIGINT, what a shell gives


def _version() -> str:
    try:
        return version("resumable-training")
    except PackageNotFoundError:
        return "(not installed: run from its source)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resumable", description="Any training run, killed anywhere, goes on with the exact next sample."
    )
    parser.add_argument("--version", action="version", version=f"resumable {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="")
    demo = commands.add_parser(
        "demo",
        help="kill a real training and resume it, with and without @resumable",
        description="Trains a small language model on the source of Python's standard library, three times at once: left alone, "
        "killed and resumed with @resumable, and killed and resumed with a plain DataLoader. Then shows what "
        "became of the data. Takes less than a minute on two cores. "
        "Exit code: 0 where @resumable was exact, 1 where it was not, 2 for wrong use.",
    )
    demo.add_argument(
        "--seed", type=int, default=0, help="decides the weights, the order and the moments of the kills (default: 0)"
    )
    demo.add_argument("--kills", type=int, default=3, help="how often each training is killed (default: 3)")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("resumable-demo"),
        metavar="DIR",
        help="where demo.png and result.json go (default: ./resumable-demo)",
    )
    demo.set_defaults(run=_demo)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*, those of the process where None is given; gives the exit code.

    Raises `SystemExit` as argparse does: after help, after the version, and for arguments that it does not know.

    >>> main(["demo", "--kills", "-1"])
    2
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 0
    try:
        code: int = parsed.run(parsed)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code
