"""One data-parallel rank's batches: neither time nor memory may grow with ranks, samples, or how far the run has come.

`python -m tests.benchmarks.bench_shards RANKS` prints the memory of one rank, in MB, of the process that it is run in.
"""

from __future__ import annotations

import gc
import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from time import thread_time
from typing import Any

from resumable import ConstantBatchSize, ResumableLoader

from .figures import Figure, fresh_process, interleaved
from .first_batch import megabytes

__all__ = ["figures"]

LENGTH, BATCH_SIZE, BATCHES, REPETITIONS = 10**12, 32, 2_000, 11
RANKS = (1, 8, 64, 512, 4096)
SHORTER = 10**9
PROCESSES = 3


def figures() -> list[Figure]:
    """Measure ranks in the middle of their rounds; "plain" is the loader of a run on one rank."""
    calls = {f"1 rank of {ranks:,}": partial(_microseconds, ranks, 0) for ranks in RANKS}
    far = f"1 rank of {RANKS[-1]:,}, 1e11 consumed"
    shorter = f"1 rank of {RANKS[-1]:,}, of {SHORTER:.0e} samples in place of {LENGTH:.0e}".replace("e+0", "e").replace(
        "e+", "e"
    )
    scheduled = f"1 rank of {RANKS[-1]:,}, in steps of 4 micro batches"
    took = interleaved(
        calls
        | {
            far: partial(_microseconds, RANKS[-1], 10**11),
            shorter: partial(_microseconds, RANKS[-1], 0, length=SHORTER),
            scheduled: partial(_microseconds, RANKS[-1], 0, micro_batches=4),
        },
        REPETITIONS,
    )
    one = took[f"1 rank of {RANKS[0]:,}"]
    return [*(Figure(name, "µs", took[name], one, ratio_at_most=1.3) for name in took), *_memory()]


def _memory() -> list[Figure]:
    """What one rank's loader takes at its highest, in fresh processes."""
    ranks = (RANKS[0], RANKS[-1])
    taken: dict[int, list[float]] = {size: [] for size in ranks}
    for _ in range(PROCESSES):
        for size in ranks:
            taken[size].append(fresh_process("-m", "tests.benchmarks.bench_shards", str(size)))
    return [Figure(f"memory of 1 rank of {size:,}", "MB", taken[size], taken[1], at_most=8) for size in ranks]


def _megabytes_here(ranks: int) -> float:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: the highest from now on
    before = megabytes("VmRSS")
    _microseconds(ranks, 10**11)
    return megabytes("VmHWM") - before


def _microseconds(ranks: int, consumed_samples: int, *, micro_batches: int = 0, length: int = LENGTH) -> float:
    """Processor time of a batch, the first one and the loader's set-up left out."""
    per_round = BATCH_SIZE * ranks
    data: Any = range(length)  # a stand-in for a dataset
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


if __name__ == "__main__":
    print(json.dumps(_megabytes_here(int(sys.argv[1]))))
