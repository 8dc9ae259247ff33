"""Apex: the process global that says how many micro batches a step takes, asked and told.

Apex dropped `apex.transformer` in 2025/26; older installs have it, and `apex` on PyPI is another project.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Final

from resumable.calculator_schedule import schedule_in
from resumable.errors import ResumptionError, explain
from resumable.extras import quietly
from resumable.protocols import BatchSchedule

__all__ = ["Calculator"]

# By name: Apex has no types, and a module that stands in for this one is found without the packages around it.
with quietly("apex"):
    import_module("apex.transformer.pipeline_parallel.utils")

_GLOBAL: Final = "_GLOBAL_NUM_MICROBATCHES_CALCULATOR"


def _framework() -> ModuleType:
    """The module that holds the global, looked up at each use as NeMo does: it may have been replaced since."""
    return import_module("apex.transformer.pipeline_parallel.utils")


@dataclass(frozen=True, slots=True)
class Calculator:
    """The calculator of this process: a `MicrobatchCalculator`.

    Source: NVIDIA/apex before the removal, apex/transformer/pipeline_parallel/utils.py and apex/transformer/microbatches.py.
    """

    @property
    def is_initialized(self) -> bool:
        """Whether `setup_microbatch_calculator` has been called."""
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

        Apex does not round: a ramp-up's size that does not divide by micro_batch_size * data_parallel_size is given
        as it is, though the micro batches of the step hold fewer samples.

        Raises ResumptionError before the calculator is initialized.
        """
        return int(self._initialized().get_current_global_batch_size())

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
                    "The microbatch calculator of Apex is not initialized in this process.",
                    [("module", "apex.transformer.pipeline_parallel.utils")],
                    "Call setup_microbatch_calculator first, or ask is_initialized.",
                )
            )
        return _framework()
