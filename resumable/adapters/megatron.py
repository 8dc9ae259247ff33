"""megatron-core: the number of micro batches of a step, a global of the process, and the data-parallel rank."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from resumable.data_sampler.calculators import MegatronCalculator as Calculator
from resumable.errors import ConfigurationError
from resumable.extras import quietly

__all__ = ["Calculator", "Ranks"]

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
