"""The position that a command is about: the one that a checkpoint holds, or the one that is named."""

from __future__ import annotations

import argparse
from pathlib import Path

from resumable.cli.command import WrongUseError
from resumable.errors import StateError
from resumable.importers import Found, FoundState, read

__all__ = ["add_checkpoint", "state_of"]


def add_checkpoint(parser: argparse.ArgumentParser, /) -> None:
    """Add the arguments that name a checkpoint, and a position in it."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CKPT",
        help="a state file, or a checkpoint of Lightning, NeMo, Megatron, DCP, accelerate or a Trainer",
    )
    parser.add_argument("--state", metavar="NAME", help="which position, where the checkpoint holds several")


def state_of(arguments: argparse.Namespace, found: Found | None = None, /) -> FoundState:
    """The one position of the checkpoint, or the one that `--state` names.

    Raises:
        WrongUseError: if there are several and none is named, or none has that name.
        StateError: as `resumable.importers.read`; also if it holds no position.
    """
    found = read(arguments.checkpoint) if found is None else found
    states = [each for each in found.states if each.snapshot is not None]
    if not states:
        steps = "" if found.steps is None else f" (steps: {found.steps})"
        raise StateError(
            f"{arguments.checkpoint} holds no position of the data{steps}: {found.tool} saves none by itself."
        )
    names = [each.name for each in states]
    if arguments.state is not None:
        if arguments.state not in names:
            raise WrongUseError(f"--state {arguments.state}: the checkpoint has {', '.join(map(repr, names))}.")
        return states[names.index(arguments.state)]
    if len(states) > 1:
        raise WrongUseError(
            f"The checkpoint has several positions: add --state with one of {', '.join(map(repr, names))}."
        )
    return states[0]
