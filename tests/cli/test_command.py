"""What the commands share."""

from __future__ import annotations

import argparse

import pytest

from resumable.cli.command import in_one_line, new_command
from resumable.errors import StateError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            StateError("Torn.", [("bytes", 133), ("path", "a")], "Load another."),
            "Torn. (bytes: 133, path: 'a') Load another.",
        ),
        (StateError("Torn."), "Torn."),
        (OSError(), "OSError"),
    ],
)
def test_an_error_in_one_line(error: Exception, expected: str) -> None:
    """The three parts of a message follow each other; an error without a message is its type's name."""
    assert expected == in_one_line(error)


def test_help_wraps_its_text_and_keeps_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A description is wrapped to the terminal; an example stays on its line."""
    monkeypatch.setenv("COLUMNS", "62")
    commands = argparse.ArgumentParser().add_subparsers()
    example = "resumable look " + "somewhere/" * 8
    made = new_command(commands, "look", lambda _: 0, summary="looks", description="word " * 30, example=example)
    lines = made.format_help().splitlines()
    assert lines[-1] == f"  {example}"
    assert max(map(len, lines[:-1])) <= 62
    assert made.parse_args(["--json"]).json
