"""What each test here may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable.saved.file import write
from tests.support.killed_writers import state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of its own in a folder of its own."""
    return tmp_path / "state.json"


@pytest.fixture
def written(path: Path) -> Path:
    """A file with state 2, and state 1 before it."""
    write(path, state(1))
    write(path, state(2))
    return path
