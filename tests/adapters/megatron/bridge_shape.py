"""A loop of the shape of Megatron-Bridge's `train`, over several ranks in one process, with megatron-core's calculator.

Source: Megatron-Bridge at 067f987, src/megatron/bridge/training/train.py and state.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any

import torch

from resumable.adapters.megatron import Sizes, build_pretraining_data_loader


@dataclass
class TrainState:
    """The counters of Bridge's class of this name that count samples, and how it saves them."""

    step: int = 0
    consumed_train_samples: int = 0
    skipped_train_samples: int = 0
    consumed_valid_samples: int = 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """As 0-d tensors."""
        return {name: torch.tensor(value, dtype=torch.int64) for name, value in vars(self).items()}


class Numbers:
    """A dataset whose samples are their indices; -1 is padding."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def loaders_of(
    kind: str,
    samples: int,
    consumed: Any,
    sizes: Sizes,
    **options: Any,
) -> list[Any]:
    """One loader for each rank of *sizes*."""
    further: dict[str, Any] = {"seed": 7, **options}
    return [
        build_pretraining_data_loader(
            Numbers(samples),
            consumed,
            kind,
            sizes.micro_batch_size,
            pin_memory=False,
            collate_fn=list,
            data_parallel_rank=rank,
            data_parallel_size=sizes.data_parallel_size,
            global_batch_size=sizes.global_batch_size,
            **further,
        )
        for rank in range(sizes.data_parallel_size)
    ]


def in_order(parts: list[list[Any]], *, deals: bool) -> list[Any]:
    """The samples of a round in the global order, from the parts of the ranks; *deals*: dealt out one by one."""
    return [each for at in zip(*parts, strict=True) for each in at] if deals else list(chain.from_iterable(parts))


def train(
    state: TrainState,
    loaders: list[Any],
    sizes: Sizes,
    until: int,
    *,
    ramp: list[int] | None = None,
    skips: Collection[int] = (),
    deals: bool = False,
) -> list[list[Any]]:
    """Train up to the step *until*, on all ranks; the samples of each step, and none for a step that is skipped."""
    calculator: Any = import_module("megatron.core.num_microbatches_calculator")
    micro, ranks = sizes.micro_batch_size, sizes.data_parallel_size
    calculator.unset_num_microbatches_calculator()
    calculator.init_num_microbatches_calculator(0, ramp, sizes.global_batch_size, micro, ranks)
    iterators = [iter(_cyclic(loader)) for loader in loaders]
    trained: list[list[Any]] = []
    while state.step < until:
        calculator.update_num_microbatches(state.consumed_train_samples, consistency_check=False)
        rounds: int = calculator.get_num_microbatches()
        drawn = [in_order([next(each) for each in iterators], deals=deals) for _ in range(rounds)]
        is_skipped = state.step + 1 in skips
        state.step += 1
        state.consumed_train_samples += micro * ranks * rounds
        state.skipped_train_samples += micro * ranks * rounds if is_skipped else 0
        trained.append([] if is_skipped else list(chain.from_iterable(drawn)))
    calculator.unset_num_microbatches_calculator()
    return trained


def _cyclic(loader: Any) -> Any:
    while True:
        yield from loader
