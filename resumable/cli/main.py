"""The command line of `resumable`: which commands there are, and what an error of any of them ends with."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

import resumable
from resumable.cli import audit, demo, inspect, plan, report, verify, which
from resumable.cli.command import INTERRUPTED, UNREADABLE, WRONG_USE, WrongUseError, in_one_line
from resumable.errors import MissingExtraError, ResumptionError

__all__ = ["COMMANDS", "main", "parser"]

COMMANDS: Final = (inspect, verify, which, plan, audit, report, demo)
"""The commands, in the order in which help lists them."""

_PIPE_CLOSED: Final = 141  # 128 + SIGPIPE, as a shell returns where `head` has read enough


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(
        prog="resumable",
        description="Any training run, killed anywhere, goes on with the exact next sample.",
        epilog="`resumable COMMAND --help` has examples.",
    )
    made.add_argument("--version", action="version", version=f"resumable {resumable.__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*, those of the process where None is given; return the exit code.

    Raises `SystemExit` as argparse does: after help, after the version, and for arguments that it does not know.

    >>> main(["demo", "--kills", "-1"])
    2
    """
    parsed = parser().parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser().print_help()
        return 0
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it exits
        return _PIPE_CLOSED
    except (WrongUseError, MissingExtraError) as error:
        return _say(in_one_line(error), WRONG_USE)
    except (ResumptionError, OSError) as error:
        return _say(in_one_line(error), UNREADABLE)
    return code


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
