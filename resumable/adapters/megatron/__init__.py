"""Megatron: what megatron-core knows of this process, and the samplers and counters of Megatron-Bridge and Megatron-LM.

    build_pretraining_data_loader     Bridge's function of that name: its samples in its order, from any position  loaders
    Sizes                             the sizes that a run began with, on which the shuffles depend                orders
    Counters                          Bridge's TrainState and Megatron-LM's args, read and written                 counters
    prepare                           the same loader, at the position of these counters                           loaders

The counters are what Bridge and Megatron-LM save, so nothing else need be saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from resumable.adapters.megatron.counters import Counters
from resumable.adapters.megatron.loaders import build_pretraining_data_loader, prepare
from resumable.adapters.megatron.orders import Sizes
from resumable.data_sampler.calculators import MegatronCalculator as Calculator
from resumable.errors import ConfigurationError
from resumable.extras import quietly

__all__ = ["Calculator", "Counters", "Ranks", "Sizes", "build_pretraining_data_loader", "prepare"]

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
