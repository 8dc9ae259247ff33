"""What every test relies on: the same draws each time, no traces of the test before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Assertions in the harnesses are explained as those in tests are; before any of them is imported, by each other too.
pytest.register_assert_rewrite("tests.support")

# One thread each, in child processes too: sums come out bit-equal, and two cores are enough. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: how long an example takes says something about the machine. Derandomized: a failure comes back.
settings.register_profile("resumable", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("resumable")

# Lightning's `seed_everything` leaves these behind, and the decorator takes its seed from the first.
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@pytest.fixture(autouse=True)
def _no_seed_from_elsewhere() -> Iterator[None]:
    for name in _SEED_VARIABLES:
        os.environ.pop(name, None)
    yield
    for name in _SEED_VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _signal_handlers_as_before() -> Iterator[None]:
    """A fit that ends by an error of its loaders leaves Lightning's SIGTERM handler behind, decorated or not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if signal.getsignal(signal.SIGTERM) is not before:
        signal.signal(signal.SIGTERM, before)
