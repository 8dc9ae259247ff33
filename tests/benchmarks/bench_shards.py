"""One data-parallel rank's batches: the cost must not grow with the number of ranks, nor with how far the run has come."""

from __future__ import annotations

from functools import partial
from itertools import islice
from time import thread_time
from typing import Any

from resumable import ConstantBatchSize, ResumableLoader

from .figures import Figure, interleaved

__all__ = ["figures"]

LENGTH, BATCH_SIZE, BATCHES, REPETITIONS = 10**12, 32, 2_000, 11
RANKS = (1, 8, 64, 512, 4096)


def figures() -> list[Figure]:
    """Measure ranks in the middle of their rounds; "plain" is the loader of a run on one rank."""
    calls = {f"1 rank of {ranks:,}": partial(_microseconds, ranks, 0) for ranks in RANKS}
    far = f"1 rank of {RANKS[-1]:,}, 1e11 consumed"
    scheduled = f"1 rank of {RANKS[-1]:,}, in steps of 4 micro batches"
    took = interleaved(
        calls
        | {
            far: partial(_microseconds, RANKS[-1], 10**11),
            scheduled: partial(_microseconds, RANKS[-1], 0, micro_batches=4),
        },
        REPETITIONS,
    )
    one = took[f"1 rank of {RANKS[0]:,}"]
    return [Figure(name, "µs", took[name], one, ratio_at_most=1.3) for name in took]


def _microseconds(ranks: int, consumed_samples: int, *, micro_batches: int = 0) -> float:
    """Processor time of a batch, the first one and the loader's set-up left out."""
    per_round = BATCH_SIZE * ranks
    data: Any = range(LENGTH)  # a stand-in for a dataset
    loader = ResumableLoader[Any](
        data,
        BATCH_SIZE,
        shuffle=True,
        seed=1,
        schedule=ConstantBatchSize(micro_batches * per_round) if micro_batches else None,
        data_parallel_rank=ranks // 2,
        data_parallel_size=ranks,
        collate_fn=len,
    )
    loader.load_state_dict({"consumed_samples": consumed_samples - consumed_samples % per_round})
    batches = iter(loader)
    next(batches)
    start = thread_time()
    for _ in islice(batches, BATCHES):
        pass
    return (thread_time() - start) / BATCHES * 1e6
