"""The first batch after a resume, measured once, in the process that it is called in: what `bench_resume` repeats.

    python -m tests.benchmarks.first_batch LOADER N CONSUMED

prints one JSON object. Its times are the processor's, since other programs may hold the clock's.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from torch.utils.data import DataLoader

from resumable import ResumableLoader

BATCH_SIZE = 32
SEED = 1


def first_batch(loader: str, n: int, consumed_samples: int) -> None:
    """Build the *loader* over *n* samples, resume at *consumed_samples* if it can, and take one batch."""
    # stand-in for a dataset: its items cost nothing, so what is measured is the loader
    data: Any = range(n)
    if loader == "plain":
        made: DataLoader[Any] = DataLoader(data, batch_size=BATCH_SIZE)
    elif loader == "plain, shuffled":
        made = DataLoader(data, batch_size=BATCH_SIZE, shuffle=True)
    else:
        resumed: ResumableLoader[Any] = ResumableLoader(data, batch_size=BATCH_SIZE, shuffle=True, seed=SEED)
        resumed.load_state_dict(saved(n, consumed_samples))
        made = resumed
    next(iter(made))


def saved(n: int, consumed_samples: int) -> dict[str, Any]:
    """What a run over *n* samples saves after *consumed_samples*."""
    epoch, offset = divmod(consumed_samples, n)
    stretch: dict[str, Any] = {
        "step": 0,
        "sample": 0,
        "epoch": 0,
        "offset": 0,
        "length": n,
        "micro_batch_size": BATCH_SIZE,
        "data_parallel_size": 1,
        "accumulation": 1,
        "num_workers": 0,
        "drop_last": False,
        "limit": None,
    }
    return {
        "format": 1,
        "consumed_samples": consumed_samples,
        "epoch": epoch,
        "offset": offset,
        "order": {"kind": "shuffled", "length": n, "seed": SEED},
        "commits": False,
        "loaders": [],
        "ledger": [stretch] if consumed_samples else [],
    }


def milliseconds(loader: str, n: int, consumed_samples: int) -> float:
    """Processor time of one first batch, in milliseconds."""
    start = thread_time()
    first_batch(loader, n, consumed_samples)
    return (thread_time() - start) * 1e3


def megabytes(field: str) -> float:
    """Memory of this process as Linux tells it: VmRSS at present, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) / 1024
    raise LookupError(field)


def measured_here(loader: str, n: int, consumed_samples: int) -> dict[str, float]:
    """Milliseconds of the very first batch of this process, and the memory that it takes at its highest."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: the highest from now on
    before, began = megabytes("VmRSS"), perf_counter()
    processor = milliseconds(loader, n, consumed_samples)
    clock = (perf_counter() - began) * 1e3
    return {"processor": processor, "clock": clock, "memory": megabytes("VmHWM") - before}


def ours_here(n: int, consumed_samples: int) -> dict[str, float]:
    """Milliseconds that are ours, in a process where torch's own first calls are done and ours are not."""
    milliseconds("plain", n, 0)
    plain = milliseconds("plain", n, 0)
    return {"processor": milliseconds("resumable", n, consumed_samples) - plain}


def main(loader: str, n: str, consumed_samples: str) -> None:
    """Measure and print."""
    if loader == "ours":
        print(json.dumps(ours_here(int(n), int(consumed_samples))))
    else:
        print(json.dumps(measured_here(loader, int(n), int(consumed_samples))))


if __name__ == "__main__":
    main(*sys.argv[1:])
