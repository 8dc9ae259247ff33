"""What `reseed=True` costs a sample and a step, next to the three libraries' own calls that seed a generator.

These calls take 6.1 µs on the machine that the limits of 8 µs a sample and 15 µs a step were set on, so the limits are
ratios here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import thread_time
from typing import Any

import numpy as np
import torch

from resumable import ResumableLoader
from resumable.loading.reseeding import STEP_BEGINS, YIELDED, reseed

from .figures import Figure, interleaved

__all__ = ["figures"]

SAMPLES, BATCH_SIZE, STEPS, REPETITIONS = 6_400, 32, 1_000, 15
SEEDING_US = 6.1


def figures() -> list[Figure]:
    """Measure; "plain" is seeding itself."""
    calls: dict[str, Callable[[], float]] = {
        "seeding": _seeding,
        "off": lambda: _epoch(reseeds=False),
        "on": lambda: _epoch(reseeds=True),
        "step": _step,
    }
    took = interleaved(calls, REPETITIONS)
    samples = [on - off for on, off in zip(took["on"], took["off"], strict=True)]
    return [
        Figure("a sample", "µs", samples, took["seeding"], ratio_at_most=round(8 / SEEDING_US, 2)),
        Figure(
            "a step, seeded at two moments",
            "µs",
            took["step"],
            took["seeding"],
            ratio_at_most=round(15 / SEEDING_US, 2),
        ),
    ]


def _epoch(*, reseeds: bool) -> float:
    data: Any = range(SAMPLES)  # a stand-in for a dataset
    loader = ResumableLoader[Any](data, BATCH_SIZE, shuffle=True, seed=1, reseed=reseeds, collate_fn=len)
    start = thread_time()
    for _ in loader:
        pass
    return (thread_time() - start) / SAMPLES * 1e6


def _seeding() -> float:
    words = list(range(2**63, 2**63 + SAMPLES))
    start = thread_time()
    for word in words:
        torch.default_generator.manual_seed(word)
        np.random.seed(word >> 32)  # noqa: NPY002  # what is measured
        random.seed(word)
    return (thread_time() - start) / SAMPLES * 1e6


def _step() -> float:
    start = thread_time()
    for step in range(STEPS):
        reseed(YIELDED, 1, 0, step * BATCH_SIZE)
        reseed(STEP_BEGINS, 1, 0, step * BATCH_SIZE)
    return (thread_time() - start) / STEPS * 1e6
