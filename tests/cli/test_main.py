"""The command line: what it says, and the exit code it says it with."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import resumable
from resumable.cli import main as cli
from resumable.cli.command import WrongUseError
from resumable.cli.main import COMMANDS
from resumable.errors import StateError


def test_without_arguments_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """`resumable` alone explains itself, and that is no error."""
    code = cli.main([])
    shown = capsys.readouterr()
    assert (code, shown.err) == (0, "")
    assert shown.out.startswith("usage: resumable ")
    assert "demo" in shown.out


def test_the_demo_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """`resumable demo --help` names every option."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--help"])
    shown = capsys.readouterr().out
    assert (caught.value.code, [option in shown for option in ("--seed", "--kills", "--out")]) == (0, [True] * 3)


@pytest.mark.parametrize("installed", [True, False])
def test_the_version(installed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--version` tells the installed one; where there is none it says so."""

    def version(name: str) -> str:
        if not installed:
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(resumable, "__version__", "as it is kept", raising=False)  # undone after the test
    monkeypatch.delattr(resumable, "__version__")
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    expected = "resumable 1.2.3\n" if installed else "resumable (not installed: run from its source)\n"
    assert (caught.value.code, capsys.readouterr().out) == (0, expected)


@pytest.mark.parametrize("arguments", [["demonstrate"], ["demo", "--kills", "many"], ["demo", "--seeds", "1"]])
def test_what_it_does_not_know_is_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command, option or number ends with 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: resumable")


def test_a_number_out_of_range_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Both bounds are told, beside what was given."""
    code = cli.main(["demo", "--kills", "1000"])
    assert (code, capsys.readouterr().err) == (
        2,
        "The demo cannot run with this number for kills.\n"
        "  kills: 1000\n"
        "  least: 1\n"
        "  most:  24\n"
        "Pass a number between them.\n",
    )


def test_a_file_in_the_way_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--out` has to be a folder, or become one; this is said before anything is trained."""
    taken = tmp_path / "taken"
    taken.touch()
    code = cli.main(["demo", "--out", str(taken)])
    assert (code, str(taken) in capsys.readouterr().err) == (2, True)


def test_missing_extras_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its extra the demo says what is missing and how to install it."""

    def find_spec(name: str) -> object:
        return None if name in {"rich", "lightning"} else cli

    monkeypatch.setattr("resumable.cli.demo.find_spec", find_spec)
    code = cli.main(["demo"])
    assert (code, capsys.readouterr().err) == (
        2,
        'The demo needs what is not installed: lightning, rich.\nInstall it with: pip install "resumable-training[demo]"\n',
    )


@pytest.mark.parametrize("name", ["lightning", "matplotlib", "rich"])
def test_a_missing_package_leaves_no_traceback(name: str, tmp_path: Path) -> None:
    """The whole command in a process of its own: two lines and the exit code, and nothing is trained or written."""
    code = f"import sys; sys.modules[{name!r}] = None; from resumable.cli.main import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr, [*tmp_path.iterdir()]) == (
        2,
        "",
        f'The demo needs what is not installed: {name}.\nInstall it with: pip install "resumable-training[demo]"\n',
        [],
    )


def test_a_folder_is_no_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is named like a package is found as one and holds nothing: that is told as a missing package is."""
    monkeypatch.delitem(sys.modules, "resumable.demo.main", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    code = cli.main(["demo"])
    assert (code, capsys.readouterr().err) == (
        2,
        "rich is not installed.\n  needed: 'rich.console'\n  extra:  'demo'\nRun: pip install \"resumable-training[demo]\"\n",
    )


ENDS: list[tuple[BaseException, tuple[int, str]]] = [
    (KeyboardInterrupt(), (130, "Interrupted.")),
    (WrongUseError("There is no such class."), (2, "There is no such class.")),
    (
        StateError("The file is torn.", [("bytes", 3)], "Load another."),
        (3, "The file is torn. (bytes: 3) Load another."),
    ),
    (PermissionError(13, "Permission denied", "a.json"), (3, "[Errno 13] Permission denied: 'a.json'")),
]


@pytest.mark.parametrize(("error", "expected"), ENDS, ids=lambda each: type(each).__name__)
def test_each_end_is_one_line(
    error: BaseException,
    expected: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C, wrong use and what cannot be read end with a line on the error stream and a code, and no traceback."""

    def run_demo(*_: object) -> int:
        raise error

    monkeypatch.setattr("resumable.demo.main.run_demo", run_demo)
    code = cli.main(["demo", "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert (expected, "") == ((code, said.err.removesuffix("\n")), said.out)


def test_a_closed_pipe_ends_quietly() -> None:
    """`resumable ... | head -0` says nothing, whatever the command still had to print."""
    code = (
        "import sys, resumable.demo.main as demo; from resumable.cli.main import main\n"
        "demo.run_demo = lambda *_: print('x' * 1_000_000) or 0\n"
        "sys.exit(main(['demo', '--out', sys.argv[1]]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (141, b"") == (process.returncode, said)


def test_each_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help ends with examples that its own parser understands."""
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        _, _, examples = capsys.readouterr().out.partition("\nexamples:\n")
        lines = [shlex.split(line) for line in examples.splitlines()]
        assert lines
        for program, *arguments in lines:
            parsed = cli.parser().parse_args(arguments)
            assert ("resumable", True) == (program, hasattr(parsed, "run"))


def test_the_package_runs_as_a_module() -> None:
    """`python -m resumable` is the same command, and loads no library to help."""
    code = "import runpy, sys; sys.argv[1:] = []; runpy.run_module('resumable', run_name='__main__')"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert (done.returncode, done.stdout.startswith("usage: resumable")) == (0, True)
    assert loaded & {"lightning", "matplotlib", "numpy", "rich", "torch"} == set()
