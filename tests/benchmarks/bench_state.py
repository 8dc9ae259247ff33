"""`state_dict()`: microseconds of a call, bytes of its JSON."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from functools import partial
from itertools import islice
from time import thread_time
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ResumableLoader

from .figures import Figure, interleaved
from .first_batch import saved

__all__ = ["figures"]

CALLS, REPETITIONS = 500, 21
LENGTH, CONSUMED = 10**12, 10**11


def figures() -> list[Figure]:
    """Measure in the middle of a long run with the longest of seeds, which takes the most digits."""
    data: Any = range(10**5)  # a stand-in for a dataset
    peer = StatefulDataLoader[Any](data, batch_size=32, shuffle=True)
    peer_batches = iter(peer)
    next(peer_batches)
    state: dict[str, Any] = saved(LENGTH, CONSUMED)
    state["order"]["seed"] = 2**64 - 1  # a state of format 1
    loader = ResumableLoader[Any](range(LENGTH), batch_size=32, shuffle=True, collate_fn=len)
    loader.load_state_dict(state)
    batches = iter(loader)
    next(batches)

    took = interleaved(
        {
            "ours": partial(_microseconds, loader),
            "moving": partial(_microseconds_moving, loader, batches),
            "load": partial(_load, loader.state_dict()),
            "peer": partial(_microseconds, peer),
        },
        REPETITIONS,
    )
    return [
        Figure("state_dict()", "µs", took["ours"], at_most=5),
        Figure("  after every batch, its canary drawn", "µs", took["moving"]),
        Figure("load_state_dict() with verdict and canary, new loader", "µs", took["load"], at_most=1_000),
        Figure("  StatefulDataLoader", "µs", took["peer"]),
        Figure("saved JSON", "bytes", [_size(loader)], at_most=512),
        Figure("  StatefulDataLoader, pickled", "bytes", [len(pickle.dumps(peer.state_dict()))]),
    ]


def _microseconds(loader: Any) -> float:
    start = thread_time()
    for _ in range(CALLS):
        loader.state_dict()
    return (thread_time() - start) / CALLS * 1e6


def _microseconds_moving(loader: Any, batches: Iterator[Any]) -> float:
    """The same with a batch between two calls, which is not counted."""
    took = 0.0
    for _ in islice(batches, CALLS):
        start = thread_time()
        loader.state_dict()
        took += thread_time() - start
    return took / CALLS * 1e6


def _load(state: dict[str, Any]) -> float:
    """A load into a loader that has drawn nothing."""
    loader = ResumableLoader[Any](range(LENGTH), batch_size=32, shuffle=True)
    start = thread_time()
    loader.load_state_dict(state)
    return (thread_time() - start) * 1e6


def _size(loader: ResumableLoader[Any]) -> int:
    return len(json.dumps(loader.state_dict()).encode())
