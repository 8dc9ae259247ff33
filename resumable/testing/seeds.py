"""The random numbers of a process: other ones in each session, as new processes have them."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["seed_all", "seeded"]


def seed_all(seed: int, /) -> None:
    """Set the global streams of Python, NumPy and, where it is loaded, torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, /) -> Generator[None, None, None]:
    """Set the global streams within the block, and put them back at its end.

    >>> with seeded(1):
    ...     first = random.random()
    >>> with seeded(1):
    ...     first == random.random()
    True
    """
    torch: Any = sys.modules.get("torch")
    python, numpy, torchs = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    try:
        seed_all(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(torchs)
