"""The command `resumable demo`."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from resumable.cli.command import WRONG_USE, new_command
from resumable.errors import ConfigurationError, MissingExtraError
from resumable.extras import naming_the_extra

__all__ = ["add_to"]

_NEEDS: Final = ("lightning", "matplotlib", "plotly", "rich")


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "demo",
        _run,
        summary="kill a real training and resume it, with and without @resumable",
        description="Trains a small language model on the source of Python's standard library, three times at once: left alone, "
        "killed and resumed with @resumable, and killed and resumed with a plain DataLoader. Then shows what "
        "became of the data. Takes less than a minute on two cores. "
        "Exit code: 0 where @resumable was exact, 1 where it was not, 2 for wrong use.",
        example="resumable demo --kills 5 --out demo",
        has_json=False,
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the weights, the order and the moments of the kills (default: 0)"
    )
    parser.add_argument("--kills", type=int, default=3, help="how often each training is killed (default: 3)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("resumable-demo"),
        metavar="DIR",
        help="where demo.png, report.html and result.json go (default: ./resumable-demo)",
    )


def _run(arguments: argparse.Namespace) -> int:
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        print(f"The demo needs what is not installed: {', '.join(missing)}.", file=sys.stderr)
        print('Install it with: pip install "resumable-training[demo]"', file=sys.stderr)
        return WRONG_USE
    try:
        with naming_the_extra():  # a folder of that name passes for the package, up to here
            from resumable.demo.main import run_demo
            from resumable.demo.settings import Settings
        settings = Settings(seed=arguments.seed, kills=arguments.kills)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ConfigurationError, MissingExtraError, OSError) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    return run_demo(settings, arguments.out)
