"""What commands print, on terminals of any width and into pipes."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from resumable.cli.output import Facts, Table, show, show_json

LEDGER = Table(
    ["from step", "from sample", "samples a step", "tail"],
    [["0", "0", "32 = 4 x 8", "trained"], ["400", "12,800", "64 = 8 x 8", "left out"]],
    "Ledger",
)
FACTS = Facts([("position", "12,800 samples, in mid epoch"), ("epoch", "1")], "Run")


class Terminal(io.StringIO):
    """What takes itself for a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


def shown(monkeypatch: pytest.MonkeyPatch, columns: int, *, has_rich: bool = True) -> str:
    """What is shown of both parts on a terminal of *columns*."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    if not has_rich:
        monkeypatch.setattr("resumable.cli.output.find_spec", dict[str, object]().get)
    show(FACTS, LEDGER)
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


PLAIN = """\
Run
position  12,800 samples, in mid epoch
epoch     1

Ledger
from step  from sample  samples a step  tail
        0            0      32 = 4 x 8  trained
      400       12,800      64 = 8 x 8  left out
"""


def test_it_is_plain_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Piped, columns are aligned by spaces; nothing is styled and no line is wrapped."""
    monkeypatch.delenv("COLUMNS", raising=False)
    show(FACTS, LEDGER)
    assert PLAIN == capsys.readouterr().out


def test_it_is_plain_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without rich shows the same."""
    assert PLAIN == shown(monkeypatch, 60, has_rich=False)


@pytest.mark.parametrize("has_rich", [True, False])
@pytest.mark.parametrize("columns", [30, 40, 60, 120])
def test_it_fits_the_terminal(columns: int, has_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer than the terminal is wide, and every cell is there whole."""
    text = shown(monkeypatch, columns, has_rich=has_rich)
    assert max(map(len, text.splitlines())) <= columns
    cells = [*LEDGER.columns, *(cell for row in LEDGER.rows for cell in row)]
    assert [cell for cell in cells if cell not in text] == []


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a file is made to say is shown, not sent."""
    show(Facts([("class", "a\x1b[2Jb\rc")]))
    assert capsys.readouterr().out == "class  a\\x1b[2Jb\\rc\n"


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object, whatever the terminal."""
    show_json({"epoch": 1, "loaders": []})
    assert json.loads(capsys.readouterr().out) == {"epoch": 1, "loaders": []}
