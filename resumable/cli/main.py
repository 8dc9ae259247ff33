"""The command line of `resumable`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

import resumable
from resumable.cli import demo

__all__ = ["main"]

_COMMANDS: Final = (demo,)
_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell returns


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resumable", description="Any training run, killed anywhere, goes on with the exact next sample."
    )
    parser.add_argument("--version", action="version", version=f"resumable {resumable.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*, those of the process where None is given; return the exit code.

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
