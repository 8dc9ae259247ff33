"""A loop of Megatron-Bridge's shape: stopped on 4 ranks, it goes on with the exact next sample on 2, and so do its validations.

Bridge saves its `TrainState` alone, and builds its loaders at the counts in it. Megatron's own samplers read the count by the
present sizes: on other ranks they repeat samples and lose others. Here the ranks run one after the other in one process.

Run it: python examples/megatron_bridge.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from resumable.adapters.megatron import Counters, Sizes, build_pretraining_data_loader

BEGUN_WITH = Sizes(micro_batch_size=2, data_parallel_size=4)
STEPS, EVAL_INTERVAL, EVAL_ITERS = 60, 10, 2
ITERATIONS_TO_SKIP = (17, 33)


@dataclass
class TrainState:
    """The counters of Bridge's class of this name, which its checkpoints hold."""

    step: int = 0
    consumed_train_samples: int = 0
    skipped_train_samples: int = 0
    consumed_valid_samples: int = 0


def batches_of(samples: int, consumed_samples: int, micro_batch_size: int, ranks: int) -> Iterator[list[int]]:
    """The micro batches of all ranks, round by round, from *consumed_samples* on."""
    loaders = [
        build_pretraining_data_loader(
            range(samples),
            consumed_samples,
            "cyclic",
            micro_batch_size,
            num_workers=0,
            data_sharding=True,
            pin_memory=False,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
            begun_with=BEGUN_WITH,
        )
        for rank in range(ranks)
    ]
    while True:
        for batches in zip(*loaders, strict=True):
            yield list(chain.from_iterable(batch.tolist() for batch in batches))


def train(checkpoint: Path, micro_batch_size: int, ranks: int, stop_after: int = STEPS) -> tuple[list[int], list[int]]:
    """Train up to the step *stop_after*, and save. Returns the samples' ids, those of validations apart."""
    state = TrainState()
    if checkpoint.exists():
        Counters.of(torch.load(checkpoint)).write(state)
    train_batches = batches_of(250, state.consumed_train_samples, micro_batch_size, ranks)
    valid_batches = batches_of(100, state.consumed_valid_samples, micro_batch_size, ranks)
    trained, validated = list[int](), list[int]()
    while state.step < stop_after:
        ids = next(train_batches)
        is_skipped = state.step + 1 in ITERATIONS_TO_SKIP
        trained += [] if is_skipped else ids  # forward, backward, optimizer.step()
        state.step += 1
        state.consumed_train_samples += len(ids)
        state.skipped_train_samples += len(ids) if is_skipped else 0
        if state.step % EVAL_INTERVAL == 0:
            for _ in range(EVAL_ITERS):
                validated += next(valid_batches)
                state.consumed_valid_samples += micro_batch_size * ranks
    torch.save({name: torch.tensor(value) for name, value in vars(state).items()}, checkpoint)
    return trained, validated


def main() -> int:
    """Compare a run that is stopped and resumed on fewer ranks with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole.pt"), 2, ranks=4)
        first = train(Path(folder, "stopped.pt"), 2, ranks=4, stop_after=41)
        second = train(Path(folder, "stopped.pt"), 4, ranks=2)
    exact = whole == (first[0] + second[0], first[1] + second[1])
    print(f"{len(first[0])} samples on 4 ranks, stopped, {len(second[0])} on 2: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
