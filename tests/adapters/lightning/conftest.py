"""What each test here may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import Scenario, train


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the default scenario after its third step."""
    cut = saved_after_step(3)
    cut.carry_out(lambda *callbacks: train(Scenario(), None, *callbacks), tmp_path)
    return tmp_path / "cut.ckpt"
