"""The types, as users meet them: programs that type checkers accept, and programs that they refuse, with the messages.

    typing/pass_*.py    no error at all
    typing/fail_*.py    # expect mypy: REGEX       above what is wrong: each is found in a message on the lines down to
                        # expect pyright: REGEX    the next empty one, and there is no error elsewhere

mypy runs with --strict, pyright with "strict", each once over all files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted((ROOT / "tests" / "typing").glob("*.py"))
EXPECTATION = re.compile(r"^ *# expect (\w+): (.+)$")
MYPY = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): (?P<severity>error|note): (?P<message>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """What a type checker says of a line, counted from 1."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Expectation:
    """A message that must come from one of *lines*."""

    lines: range
    pattern: str

    def is_met_by(self, message: Message) -> bool:
        """Whether *message* is the expected one."""
        return message.line in self.lines and re.search(self.pattern, message.text) is not None


def expectations(text: str, tool: str) -> list[Expectation]:
    """What the comments in *text* expect of *tool*."""
    lines = [*text.splitlines(), ""]
    found: list[Expectation] = []
    for number, line in enumerate(lines, 1):
        expected = EXPECTATION.match(line)
        if expected is not None and expected[1] == tool:
            found.append(Expectation(range(number, lines.index("", number) + 1), expected[2]))
    return found


def differences(text: str, tool: str, messages: list[Message]) -> list[str]:
    """Expectations that no message meets, and messages where nothing is expected."""
    expected = expectations(text, tool)
    missing = [one for one in expected if not any(one.is_met_by(message) for message in messages)]
    surprising = [message for message in messages if not any(message.line in one.lines for one in expected)]
    return [f"line {one.lines.start}: missing: {one.pattern}" for one in missing] + [
        f"line {message.line}: {message.text}" for message in surprising
    ]


@lru_cache(maxsize=1)
def said_by_mypy() -> list[Message]:
    """Errors and the notes below them."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--hide-error-codes", "--no-error-summary"]
    done = subprocess.run([*command, *map(str, PROGRAMS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [Message(Path(one["file"]).name, int(one["line"]), one["message"]) for one in MYPY.finditer(done.stdout)]


@lru_cache(maxsize=1)
def said_by_pyright() -> list[Message]:
    """Errors, warnings and information alike."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project"]
    done = subprocess.run([*command, "tests/typing"], cwd=ROOT, capture_output=True, text=True, check=False)
    report: Mapping[str, Any] = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(PROGRAMS)
    return [
        Message(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
        for one in report["generalDiagnostics"]
    ]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_mypy_says_what_is_expected(program: Path) -> None:
    """What must pass, mypy takes; the rest it refuses the rest in the expected words."""
    messages = [message for message in said_by_mypy() if message.file == program.name]
    assert differences(program.read_text(encoding="utf-8"), "mypy", messages) == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_pyright_says_what_is_expected(program: Path) -> None:
    """What must pass, pyright takes; the rest it refuses the rest in the expected words."""
    messages = [message for message in said_by_pyright() if message.file == program.name]
    assert differences(program.read_text(encoding="utf-8"), "pyright", messages) == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_programs_expect_what_their_names_say(program: Path) -> None:
    """A program that must fail expects something of both tools, one that must pass expects nothing."""
    counts = [len(expectations(program.read_text(encoding="utf-8"), tool)) for tool in ("mypy", "pyright")]
    assert (min(counts) > 0, max(counts) > 0) == (program.stem.startswith("fail_"),) * 2


def test_a_missing_and_a_surprising_message_are_seen() -> None:
    """The comparison above finds what is not said, and what is said elsewhere."""
    text = "# expect mypy: wrong\nx()\n\ny()\n"
    right, elsewhere = Message("a.py", 2, "this is wrong"), Message("a.py", 4, "this is wrong")
    assert differences(text, "mypy", [right]) == []
    assert differences(text, "mypy", []) == ["line 1: missing: wrong"]
    assert differences(text, "mypy", [right, elsewhere]) == ["line 4: this is wrong"]
