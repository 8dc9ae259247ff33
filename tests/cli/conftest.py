"""What the tests of the commands have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is piped, and nothing says how wide it may be: processes of pytest-xdist are told the terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)
