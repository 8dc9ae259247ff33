"""The README keeps its word: its code runs, its commands are the tested ones, and what it links to is there."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli

import resumable
from resumable.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(resumable.__file__).parent  # of the checkout, or of the wheel where that is tested
FENCE = re.compile(r"^(<!-- continues -->\n+)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block, the line of the README that its text begins on, and whether it builds on the one before."""

    language: str
    text: str
    line: int
    continues: bool

    @property
    def printed(self) -> list[str]:
        """What the block says that it prints: the comments behind its `print(...)`."""
        return re.findall(r"^ *print\(.*\)  # (.*)$", self.text, re.MULTILINE)


def blocks_of(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of *text* in one of *languages*, in their order."""
    return [
        Block(found[2], found[3], text.count("\n", 0, found.start(3)) + 1, found[1] is not None)
        for found in FENCE.finditer(text)
        if found[2] in languages
    ]


def chains_of(text: str) -> list[list[Block]]:
    """The Python blocks of *text*, those that continue behind those that they build on."""
    chains: list[list[Block]] = []
    for block in blocks_of(text, "python"):
        if block.continues:
            chains[-1].append(block)
        else:
            chains.append([block])
    return chains


def run(blocks: list[Block]) -> list[str]:
    """Run *blocks* in one module that is nobody else's. Tracebacks show the README's own lines."""
    module = ModuleType("readme")
    printed: list[str] = []

    def note(*values: object) -> None:
        printed.append(" ".join(map(str, values)))

    vars(module)["print"] = note
    sys.modules[module.__name__] = module
    try:
        for block in blocks:
            padded = "\n" * (block.line - 1) + block.text
            exec(compile(padded, "README.md", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return printed


@pytest.mark.parametrize("blocks", chains_of(README), ids=lambda blocks: f"line {blocks[0].line}")
def test_code_runs_and_prints_what_it_says(
    blocks: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python block runs in an empty folder without a warning, and prints what its comments say."""
    if any("adapters.megatron" in block.text for block in blocks):
        pytest.importorskip("megatron.core")
    monkeypatch.chdir(tmp_path)
    printed = run(blocks)
    said = [line for block in blocks for line in block.printed]
    assert [line for line in printed if line in said] == said


def test_the_commands_do_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a command in a block of text runs after the Python block before it, and ends well."""
    monkeypatch.chdir(tmp_path)
    (commands,) = (block for block in blocks_of(README, "text") if block.text.startswith("resumable "))
    run([block for block in blocks_of(README, "python") if block.line < commands.line][-1:])
    lines = [re.split(r"  +", line)[0] for line in commands.text.splitlines()]
    assert 6 == len(lines)
    assert [0] * len(lines) == [main(line.split()[1:]) for line in lines]


def test_the_first_code_is_eight_lines() -> None:
    """The first screen shows the whole use in eight lines."""
    assert len(blocks_of(README, "python")[0].text.splitlines()) == 8


def test_there_are_two_commands() -> None:
    """A new user needs two commands: one shows the demo, one runs the tests. CI runs the second, word for word."""
    commands = [
        line for block in blocks_of(README, "bash", "console", "sh", "shell") for line in block.text.splitlines()
    ]
    assert commands == [
        'pip install -c .ci/constraints.txt -e ".[demo]" && resumable demo',
        'pip install -c .ci/constraints.txt -e ".[test]" && pytest',
    ]
    assert f"'{commands[1]}'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def is_there(link: str) -> bool:
    """Whether *link* leads to a file of the project."""
    return (PACKAGE.parent if link.startswith("resumable/") else ROOT).joinpath(link).is_file()


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_lead_to_files(name: str) -> None:
    """What the pages link to inside the repository is there, the picture too."""
    links = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not is_there(link)] == []


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_an_index_shows_absolute_links_to_the_same_files() -> None:
    """On a package index, every link of the README is absolute, and those to the project lead to files of the checkout."""
    shown = README
    for each in project()["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(each["pattern"], each["replacement"], shown)
    repository = project()["project"]["urls"]["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [link.removeprefix(f"{repository}/blob/main/").removeprefix(f"{raw}/main/") for link in links]
    of_files = [link for link in ours if "://" not in link]
    assert sorted(of_files) == sorted(re.findall(r"\]\(([^):]+)\)", README))
    assert [link for link in of_files if not is_there(link)] == []


def test_each_file_and_folder_of_the_package_is_in_its_map() -> None:
    """The section "How it is built" names each file and folder that lies directly in the package, in table and picture."""
    built = README.partition("## How it is built")[2].partition("## Contribute")[0]
    table = re.findall(r"`(\w+)(?:/|\.py)`", "".join(re.findall(r"^\|(.*?)\|", built, re.MULTILINE)))
    picture = re.findall(r"\w+", built.partition("    run by users")[2].partition("\n\n")[0])
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(table) == names - {"__init__", "__main__"}
    assert names - {"__init__", "__main__"} <= set(picture)


def test_the_picture_is_a_picture() -> None:
    """The README opens with a PNG of the demo."""
    (picture,) = re.findall(r"^!\[.+\]\((.+)\)$", README, re.MULTILINE)
    assert (ROOT / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_block_that_fails_is_seen() -> None:
    """The runner above fails with the block, on its own line, and tells chains from single blocks."""
    text = "```python\nx = 1\n```\n\n<!-- continues -->\n```python\nprint(x)  # 1\n```\n\n```python\nprint(x)\n```\n"
    chained, alone = chains_of(text)
    assert (run(chained), chained[1].printed) == (["1"], ["1"])
    with pytest.raises(NameError) as caught:
        run(alone)
    assert caught.traceback[-1].lineno + 1 == 11
