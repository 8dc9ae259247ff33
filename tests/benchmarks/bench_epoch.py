"""A whole epoch, set-up included, and the same with a state saved after every batch; and the orders' indices a second.

The dataset is a range, whose items cost nothing: with a real one, every ratio is nearer to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import thread_time
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ResumableLoader, Shuffled
from resumable.feeds.order_feed import OrderFeed
from resumable.steps.batch_plan import BatchPlan

from .figures import Figure, interleaved

__all__ = ["epoch_figures", "order_figures"]

EPOCHS = ((10**4, 32, 25), (10**5, 32, 7), (10**5, 256, 7))  # samples, batch size, repetitions
PLAIN, OURS, PEER = "DataLoader(shuffle=True)", "ResumableLoader", "StatefulDataLoader"
LOADERS: dict[str, Callable[..., Any]] = {PLAIN: DataLoader, OURS: ResumableLoader, PEER: StatefulDataLoader}
BLOCK, BATCH_SIZE = 16_384, 32
INDICES = 2**20  # drawn for one figure


def epoch(loader: str, n: int, batch_size: int, *, saves: bool = False) -> float:
    """Milliseconds of one epoch."""
    start = thread_time()
    made = LOADERS[loader](range(n), batch_size=batch_size, shuffle=True)
    for _ in made:
        if saves:
            made.state_dict()
    return (thread_time() - start) * 1e3


def epoch_figures() -> list[Figure]:
    """Measure epochs of several sizes."""
    found: list[Figure] = []
    for n, batch_size, repetitions in EPOCHS:
        calls = {name: partial(epoch, name, n, batch_size) for name in LOADERS}
        saving = {f"{name} saves": partial(epoch, name, n, batch_size, saves=True) for name in (OURS, PEER)}
        took = interleaved(calls | saving, repetitions)
        plain = took[PLAIN]
        found += [
            Figure(f"n = {n:,}, batches of {batch_size}", "ms", took[OURS], plain, ratio_at_most=1.0),
            Figure("  state_dict() each batch", "ms", took[f"{OURS} saves"], plain, ratio_at_most=1.1),
            Figure(f"  {PEER}", "ms", took[PEER], plain),
            Figure("    state_dict() each batch", "ms", took[f"{PEER} saves"], plain),
        ]
    return found


def order_figures() -> list[Figure]:
    """Million indices a second, in blocks and as the batches that a loader takes."""
    found: list[Figure] = []
    for n in (10**5, 10**6, 10**9, 10**12):
        calls = {"blocks": partial(_rate_of_blocks, n), "batches": partial(_rate_of_batches, n)}
        if n <= 10**6:
            calls["plain"] = partial(_rate_of_plain, n)
        rate = interleaved(calls, 9)
        found += [
            Figure(
                f"n = {n:.0e}, blocks of 16,384".replace("e+0", "e").replace("e+", "e"),
                "M/s",
                rate["blocks"],
                at_least=50,
            ),
            Figure("  batches of 32", "M/s", rate["batches"], rate.get("plain", ()), at_least=25),
        ]
    return found


def _rate_of_blocks(n: int) -> float:
    order, drawn = Shuffled(n, seed=1), min(n, INDICES) // BLOCK * BLOCK
    start = thread_time()
    for begin in range(0, drawn, BLOCK):
        order.indices(0, begin, begin + BLOCK)
    return drawn / (thread_time() - start) / 1e6


def _rate_of_batches(n: int) -> float:
    return _rate(OrderFeed(Shuffled(n, seed=1), BatchPlan(n, BATCH_SIZE)).batches(0, max(0, n - INDICES)), n)


def _rate_of_plain(n: int) -> float:
    return _rate(iter(BatchSampler(RandomSampler(range(n)), BATCH_SIZE, drop_last=False)), n)


def _rate(batches: Any, n: int) -> float:
    start = thread_time()
    for _ in batches:
        pass
    return min(n, INDICES) / (thread_time() - start) / 1e6
