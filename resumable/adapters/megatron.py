"""megatron-core: the process global that says how many micro batches a step takes, asked and told."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Final

from resumable.calculator_schedule import schedule_in
from resumable.errors import ConfigurationError, ResumptionError, explain
from resumable.extras import quietly
from resumable.protocols import BatchSchedule

__all__ = ["Calculator", "Ranks"]

# By name: megatron-core has no types, and a module that stands in for this one is found without the packages around it.
with quietly("megatron"):
    import_module("megatron.core.num_microbatches_calculator")

_GLOBAL: Final = "_GLOBAL_NUM_MICROBATCHES_CALCULATOR"


def _framework() -> ModuleType:
    """The module that holds the global, looked up at each use as NeMo does: it may have been replaced since."""
    return import_module("megatron.core.num_microbatches_calculator")


@dataclass(frozen=True, slots=True)
class Calculator:
    """The calculator of this process: a `MicrobatchCalculator`.

    Source: megatron-core 0.16.1, megatron/core/num_microbatches_calculator.py.
    """

    @property
    def is_initialized(self) -> bool:
        """Whether `init_num_microbatches_calculator` has been called."""
        framework = _framework()
        if hasattr(framework, _GLOBAL):
            return getattr(framework, _GLOBAL) is not None
        ask = framework.get_num_microbatches
        try:
            return ask() is not None
        except (AttributeError, TypeError):  # it asks None
            return False

    @property
    def current_global_batch_size(self) -> int:
        """Samples over all ranks that the step which begins now takes.

        It is what megatron-core calls the running size, rounded down under `decrease_batch_size_if_needed`. Without
        that a ramp-up's size that does not divide by micro_batch_size * data_parallel_size is given as it is, though
        the micro batches of the step hold fewer samples.

        Raises ResumptionError before the calculator is initialized.
        """
        framework = self._initialized()
        running = getattr(framework, "get_current_running_global_batch_size", None)  # older releases do not round
        return int((running or framework.get_current_global_batch_size)())

    @property
    def schedule(self) -> BatchSchedule | None:
        """The batch sizes to come, where the calculator varies them; None where not, or before it is initialized."""
        return schedule_in(getattr(_framework(), _GLOBAL, None))

    def update(self, consumed_samples: int, /) -> None:
        """Tell it that the next step begins at *consumed_samples*.

        Sizes that do not divide by micro_batch_size * data_parallel_size are let pass, as NeMo does on load.
        Raises ResumptionError before the calculator is initialized.
        """
        self._initialized().update_num_microbatches(consumed_samples=consumed_samples, consistency_check=False)

    def _initialized(self) -> ModuleType:
        if not self.is_initialized:
            raise ResumptionError(
                explain(
                    "The microbatch calculator of megatron-core is not initialized in this process.",
                    [("module", "megatron.core.num_microbatches_calculator")],
                    "Call init_num_microbatches_calculator first, or ask is_initialized.",
                )
            )
        return _framework()


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's data-parallel rank by `megatron.core.parallel_state`: a `resumable.Ranks`.

    Tensor-, pipeline- and context-parallel processes of one data-parallel rank get the same samples. Raises
    ConfigurationError when it is asked before `initialize_model_parallel`.

    Source: megatron-core 0.16.1, megatron/core/parallel_state.py.
    """

    @property
    def data_parallel_rank(self) -> int:
        """This process in its data-parallel group."""
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
                explain(
                    "Megatron's model parallelism is not initialized in this process.",
                    [("module", "megatron.core.parallel_state")],
                    "Call parallel_state.initialize_model_parallel() before the loader is built.",
                )
            )
        return parallel_state
