"""Runs of a `ResumableLoader` over a few numbers, cut and restarted."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from tests.support.reference import Loader, Reference, batches_of, order_of

N, SIZE, EPOCHS = 11, 4, 3
"""Samples, batch size and epochs of the runs here: three batches an epoch, the last one short."""
WITH_WORKERS: dict[str, Any] = {"num_workers": 2, "prefetch_factor": 4}


def loader_of(n: int = N, *, batch_size: int | None = SIZE, seed: int | None = 5, **options: Any) -> Any:
    """A shuffled loader over *n* numbers."""
    return Loader(range(n), batch_size=batch_size, shuffle=True, seed=seed, **options)


def expected(n: int = N, *, batch_size: int = SIZE, drop_last: bool = False, epochs: int = EPOCHS) -> list[list[int]]:
    """The batches of the uninterrupted run."""
    reference = Reference(order_of(n, shuffle=True, seed=5))
    found: list[list[int]] = []
    while reference.epoch < epochs:
        found.append(reference.take(batch_size, drop_last=drop_last))
    return found


def restarted(state: dict[str, Any], **options: Any) -> Any:
    """A loader as a new process has it, with what was saved as JSON."""
    loader = loader_of(**options)
    loader.load_state_dict(json.loads(json.dumps(state)))
    return loader


def cut(loader: Any, batches: int) -> tuple[list[list[int]], dict[str, Any]]:
    """The first *batches* batches of a run, over as many epochs as it takes, and the state behind the last."""
    state = loader.state_dict()
    run = batches_of(loader, EPOCHS)
    taken: list[list[int]] = []
    for batch in islice(run, batches):
        taken.append(batch)
        state = loader.state_dict()
    return taken, state
