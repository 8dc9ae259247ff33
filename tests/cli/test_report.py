"""`resumable report`: what it writes, and what it says where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from resumable.cli.main import main
from tests.support.audited_runs import session

HEADS = {"html": b"<!DOCTYPE html>", "png": b"\x89PNG", "svg": b"<?xml"}


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """A folder with two runs, the second with a gap."""
    folder = tmp_path / "audit"
    session(folder, (1, 5), 3, samples=50)
    session(folder, (1, 5), 7, beyond=2, samples=50)
    session(folder, (2, 5), 1, state=session(None, (1, 5), 11, samples=50), samples=50)
    return folder


@pytest.mark.parametrize("suffix", HEADS)
def test_the_suffix_says_what_is_written(suffix: str, audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page or a picture, whose place is told; a run that is not exact is drawn as well."""
    path = audit.parent / f"report.{suffix}"
    code = main(["report", str(audit), "-o", str(path), "--title", "Two runs"])
    assert (0, f"report: {path}\n", True) == (
        code,
        capsys.readouterr().out,
        path.read_bytes().startswith(HEADS[suffix]),
    )


@pytest.mark.parametrize(
    ("output", "says"), [("report.pdf", "the suffix must be one of"), ("nowhere/report.html", "there is no folder")]
)
def test_a_wrong_output(output: str, says: str, audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another suffix, or a folder that is not there, is wrong use, told before anything is read."""
    code = main(["report", str(audit), "-o", str(audit.parent / output)])
    shown = capsys.readouterr()
    assert (2, "", 1, True) == (code, shown.out, len(shown.err.splitlines()), says in shown.err)


def test_where_there_is_no_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3, and one line."""
    code = main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")])
    shown = capsys.readouterr()
    assert (3, "", 1) == (code, shown.out, len(shown.err.splitlines()))


@pytest.mark.parametrize(("package", "suffix"), [("plotly", "html"), ("matplotlib", "png")])
def test_a_missing_package_is_named(
    package: str, suffix: str, audit: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra that brings it is named."""
    for name in [
        name
        for name in sys.modules
        if name.startswith((package, "resumable.report.page", "resumable.report.timeline_p"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code = main(["report", str(audit), "-o", str(audit.parent / f"report.{suffix}")])
    assert (2, True) == (code, 'pip install "resumable-training[report]"' in capsys.readouterr().err)
