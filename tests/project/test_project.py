"""The project's files agree with each other: what is declared, what is pinned and what is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def text_of(name: str) -> str:
    """The text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def pins_in(text: str) -> dict[str, str]:
    """The version of each package that *text* names with `==`."""
    return dict(re.findall(r"([\w-]+)==([\w.]+)", text))


def test_each_named_python_is_tested() -> None:
    """The classifiers name the Pythons of the workflow's matrix, and the first is the lowest that is allowed."""
    (matrix,) = re.findall(r"python: \[(.*)\]", text_of(".github/workflows/ci.yml"))
    tested: list[str] = re.findall(r"3\.\d+", matrix)
    classifiers = "\n".join(PROJECT["classifiers"])
    assert tested == re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    """`.ci/lowest.txt` holds the lower bound of each dependency that runs with the tests, and nothing else."""
    declared = "\n".join(
        [*PROJECT["dependencies"], *EXTRAS["lightning"], *EXTRAS["demo"], *EXTRAS["report"], *EXTRAS["test"]]
    )
    bounds: dict[str, str] = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", declared, re.MULTILINE))
    lowest = pins_in(text_of(".ci/lowest.txt"))
    checkers = {"mypy", "pyright", "ruff", "tomli"}
    assert {name: (*version.split("."), "0", "0")[:3] for name, version in bounds.items() if name not in checkers} == {
        name: tuple(version.split(".")) for name, version in lowest.items()
    }


def test_the_tools_have_one_version() -> None:
    """Where `.pre-commit-config.yaml` and `.ci/constraints.txt` both pin a tool, they pin the same version."""
    hooks = pins_in(text_of(".pre-commit-config.yaml"))
    constraints = pins_in(text_of(".ci/constraints.txt"))
    shared = hooks.keys() & constraints.keys()
    assert {"codespell", "ruff"} <= shared
    assert {name: hooks[name] for name in shared} == {name: constraints[name] for name in shared}


def test_the_code_asks_for_no_extra_that_is_not_there() -> None:
    """Each `pip install "resumable-training[...]"` in the code names an extra, and no line has another name."""
    files = [*ROOT.glob("resumable/**/*.py"), *ROOT.glob("examples/*.py"), ROOT / "README.md"]
    named = re.findall(r"pip install \\?\"([\w-]+)\[([^\]]*)\]", "".join(path.read_text("utf-8") for path in files))
    assert {name for name, _ in named} == {PROJECT["name"]}
    assert {extra for _, extra in named} - {"{extra}"} <= EXTRAS.keys()


ADAPTERS = sorted(
    path.stem for path in (ROOT / "resumable" / "adapters").iterdir() if not path.name.startswith("_") and path.stem
)
NO_EXTRA = {
    "apex": "it has no wheel",
    "bionemo": "its recipes are copied, not installed",
    "device_mesh": "it is torch's",
    "distributed": "it is torch's",
    "torchtitan": "its loops need torch alone",
}
NO_EXAMPLE = {
    "apex": "megatron_gpt.py asks whichever calculator is there",
    "torchdata": "a StatefulDataLoader is a train loader as any other",
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_each_adapter_is_whole(name: str) -> None:
    """An adapter has tests, an example, an extra and a place in the README, or a reason why not."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if _uses(name, path.read_text("utf-8"))]
    examples = [path for path in (ROOT / "examples").glob("*.py") if _uses(name, path.read_text("utf-8"))]
    assert [] != [path.name for path in tests if path.name.startswith("test_") or path.parent.name == "support"]
    assert (name in NO_EXAMPLE) == (not examples)
    assert (name in NO_EXTRA) == (name not in EXTRAS)
    assert re.search(rf"\b{name}\b", text_of("README.md"), re.IGNORECASE)


def _uses(name: str, text: str) -> bool:
    """Whether *text* imports the adapter *name*, or a framework by which the package finds it."""
    imported = rf"adapters\.{name}\b|adapters import [^\n]*\b{name}\b"
    found = rf"^ *(import|from) {name}\b" if name in ("lightning", "torchdata") else imported
    return re.search(rf"{imported}|{found}", text, re.MULTILINE) is not None
