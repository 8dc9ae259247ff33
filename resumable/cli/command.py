"""What all commands share: exit codes, how one is declared, and an error in one line."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, Final

__all__ = ["INTERRUPTED", "NO", "OK", "UNREADABLE", "WRONG_USE", "WrongUseError", "in_one_line", "new_command"]

OK: Final = 0
NO: Final = 1
"""The answer is no: not exact, not exactly once."""
WRONG_USE: Final = 2
"""As argparse returns."""
UNREADABLE: Final = 3
"""Nothing could be read, or what was read does not tell."""
INTERRUPTED: Final = 130
"""128 + SIGINT, as a shell returns."""


class WrongUseError(Exception):
    """Arguments with which the command can do nothing; the message is one line."""


class _Formatter(argparse.HelpFormatter):
    """Wraps the paragraphs of a text; indented lines, which are examples, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = textwrap.dedent(text).strip().splitlines()
        kept = [line if line.startswith(" ") else textwrap.fill(line, width) for line in lines]
        return textwrap.indent("\n".join(kept), indent)


def new_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    /,
    *,
    summary: str,
    description: str,
    example: str,
    has_json: bool = True,
) -> argparse.ArgumentParser:
    """Add the command *name* to *commands*, argparse's subparsers; *run* gets its arguments and returns the exit code.

    *summary* is its line in `resumable --help`; *example* has one command a line. With *has_json*, it has `--json`.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(example).strip(), "  "),
        formatter_class=_Formatter,
    )
    if has_json:
        parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.set_defaults(run=run)
    return parser


def in_one_line(error: BaseException) -> str:
    r"""The message of *error* in one line; of an error of this package with its values in brackets.

    >>> in_one_line(ValueError("The seed differs.\n  saved:   1\n  current: 20\nPass seed=1."))
    'The seed differs. (saved: 1, current: 20) Pass seed=1.'
    """
    what, *others = str(error).splitlines() or [type(error).__name__]
    values = [" ".join(line.split()) for line in others if line.startswith("  ")]
    advice = [line for line in others if not line.startswith("  ")]
    return " ".join([what, *([f"({', '.join(values)})"] if values else []), *advice])
