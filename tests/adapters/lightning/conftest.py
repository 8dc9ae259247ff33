"""What each test here may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import Scenario, train


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the default scenario after its third step."""
    cut = saved_after_step(3)
    cut.carry_out(lambda *callbacks: train(Scenario(), None, *callbacks), tmp_path)
    return tmp_path / "cut.ckpt"


@pytest.fixture(autouse=True)
def _no_patch_that_an_error_left() -> Iterator[None]:
    """Lightning replaces methods of loader classes while it builds loaders, and an error leaves them replaced."""
    yield
    bases: tuple[type[Any], ...] = (DataLoader, BatchSampler)
    for base in bases:
        for cls in (base, *get_all_subclasses(base)):
            for name in ("__init__", "__setattr__", "__delattr__"):
                replaced = f"__old{name}"
                if replaced in vars(cls):
                    setattr(cls, name, vars(cls)[replaced])
                    delattr(cls, replaced)
