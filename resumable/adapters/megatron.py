"""megatron-core: the number of micro batches of a step, a global of the process, and the data-parallel rank."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from resumable.data_sampler.calculators import MegatronCalculator as Calculator
from resumable.errors import ConfigurationError
from resumable.extras import quietly
from resumable.orders.splitmix import mixed
from resumable.randomness import SEEDERS

__all__ = ["Calculator", "Ranks", "reseed_trackers"]

# By name: megatron-core has no types, and a module that stands in for this one is found without the packages around it.
with quietly("megatron"):
    import_module("megatron.core.num_microbatches_calculator")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's data-parallel rank from `megatron.core.parallel_state`: a `resumable.Ranks`.

    Tensor-, pipeline- and context-parallel processes of one data-parallel rank load the same samples. Reading it before
    `initialize_model_parallel` raises ConfigurationError.

    Source: megatron-core 0.16.1, megatron/core/parallel_state.py.
    """

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank in its data-parallel group."""
        return int(self._initialized().get_data_parallel_rank())

    @property
    def data_parallel_size(self) -> int:
        """Processes of the data-parallel group."""
        return int(self._initialized().get_data_parallel_world_size())

    @staticmethod
    def _initialized() -> ModuleType:
        parallel_state = import_module("megatron.core.parallel_state")
        if not parallel_state.is_initialized():
            raise ConfigurationError(
                "Megatron's model parallelism is not initialized in this process.",
                [("module", "megatron.core.parallel_state")],
                "Call parallel_state.initialize_model_parallel() before the loader is built.",
            )
        return parallel_state


def reseed_trackers(word: int, /) -> None:
    """Seed the generators of megatron-core's `CudaRNGStatesTracker`, where it is initialized, for dropout in its layers.

    What is split among tensor-parallel ranks draws other numbers on each of them, and what they hold alike the same.

    Source: `model_parallel_cuda_manual_seed` of megatron-core 0.16.1, megatron/core/tensor_parallel/random.py.
    """
    module: Any = sys.modules.get("megatron.core.tensor_parallel.random")
    tracker = None if module is None else getattr(module, "_CUDA_RNG_STATE_TRACKER", None)
    if tracker is None or not tracker.is_initialized():
        return
    parallel_state: Any = import_module("megatron.core.parallel_state")
    shared = module.get_data_parallel_rng_tracker_name()
    experts = module.get_expert_parallel_rng_tracker_name()
    states = tracker.get_states()
    for number, name in enumerate(sorted(states), start=1):
        rank = 0
        if name == experts:
            rank = 1 + parallel_state.get_expert_model_parallel_rank()
            rank = rank << 20 | parallel_state.get_expert_tensor_parallel_rank()
        elif name != shared:
            rank = 1 + parallel_state.get_tensor_model_parallel_rank()
        seed = mixed(mixed(word ^ number) ^ rank)
        state = states[name]
        if isinstance(state, torch.Generator):  # with CUDA graphs
            state.manual_seed(seed)
        else:
            own = torch.Generator(device="cuda")
            own.manual_seed(seed)
            states[name] = own.get_state()
    tracker.set_states(states)


SEEDERS.append(reseed_trackers)
