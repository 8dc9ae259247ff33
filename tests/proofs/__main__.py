"""`python -m tests.proofs COMMAND`: each command is a module that exports `add_command(commands)`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.proofs.kills import command as kill
from tests.proofs.simulation import command as simulate

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, what a shell gives


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments*, those of the process where None is given; gives the exit code.

    Raises `SystemExit` as argparse does, for arguments that it does not know.

    >>> main([])  # doctest: +ELLIPSIS
    usage: python -m tests.proofs [-h] ...
    2
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.proofs",
        description="Proves that a run goes on with the exact next sample. Exit code: 0 where it does, 1 where it does "
        "not, 2 for wrong use.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (simulate, kill):
        command.add_command(commands)
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 2
    try:
        code: int = parsed.run(parsed)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
