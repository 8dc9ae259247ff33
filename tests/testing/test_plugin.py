"""The plugin, in pytest sessions of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import resumable.testing

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest
from resumable import MissingExtraError
from tests.support.broken_loaders import Honest

OPTIONS = {"accumulation": [1], "cuts": 1, "epochs": 1}

def test_exact(check_resume):
    assert check_resume(lambda: Honest(), **OPTIONS).is_exact

def test_broken(check_resume):
    check_resume(lambda: Honest("starts the epoch again"), **OPTIONS)

def test_looked_at(check_resume):
    assert not check_resume(lambda: Honest("starts the epoch again"), must_be_exact=False, **OPTIONS).is_exact

def test_without_an_extra(check_resume, monkeypatch):
    def missing(make):
        raise MissingExtraError("Run: pip install it")
    monkeypatch.setattr("resumable.testing.grid.check_resume", missing)
    check_resume(lambda: Honest())
"""


def session(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A pytest session over TESTS, which loads the plugin as an installed one is loaded, or once more."""
    (folder / "test_it.py").write_text(TESTS, encoding="utf-8")
    is_installed = any(each.value == "resumable.testing.plugin" for each in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "resumable.testing.plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", "/dev/null", "--rootdir", str(folder), *plugin]
    return subprocess.run([*command, *options, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_fixture_fails_a_test_and_the_option_writes_all(processes: str, tmp_path: Path) -> None:
    """One exact, one failed with its table, one looked at, one skipped; three matrices in the file, under xdist too."""
    done = session(tmp_path, "-n", processes, "--resumable-json", str(tmp_path / "found.json"))
    assert "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "repeated: after a step" in done.stdout
    assert "Run: pip install it" in done.stdout
    written: list[dict[str, Any]] = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["matrices"]
    found = {each["test"].partition("::")[2]: each["is_exact"] for each in written}
    assert {"test_exact": True, "test_broken": False, "test_looked_at": False} == found
    assert all(each["cells"] for each in written)


def test_the_names_of_the_folder_are_those_that_type_checkers_see() -> None:
    """Each public name is what its module defines; the table and the guarded imports agree."""
    text = Path(resumable.testing.__file__).read_text(encoding="utf-8")
    seen = {module for module, _ in re.findall(r"^    from (\S+) import (\w+) as \w+$", text, re.MULTILINE)}
    names: list[str] = vars(resumable.testing)["__all__"]
    assert sorted(names) == sorted(re.findall(r"^    from \S+ import (\w+) as \1$", text, re.MULTILINE))
    for name in names:
        assert getattr(resumable.testing, name).__module__ in {*seen, "typing"}
        assert name in dir(resumable.testing)
    with pytest.raises(AttributeError, match="has no attribute 'check_resumes'"):
        _ = resumable.testing.check_resumes  # type: ignore[attr-defined]  # misspelt on purpose


def test_pytest_starts_without_anything_heavy() -> None:
    """What every pytest session of a user loads is the plugin's file alone."""
    program = (
        "import sys, resumable.testing.plugin\n"
        "print(sorted({'numpy', 'torch', 'lightning', 'resumable.testing.grid'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("", "[]\n") == (done.stderr, done.stdout)
