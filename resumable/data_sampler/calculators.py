"""Which microbatch calculator this process has: megatron-core's, otherwise Apex's, otherwise none.

    calculator = find_calculator()
    if calculator is not None and calculator.is_initialized:
        calculator.update(consumed_samples)

The framework is imported by the first call, not by an import of this module: megatron-core takes seconds.

A calculator that varies the batch size was set up with a schedule, which is read off it:

    ConstantNumMicroBatchesCalculator           None: nothing varies
    RampupBatchsizeNumMicroBatchesCalculator    LinearRampup; Apex's, of the same numbers, has a shorter name
    StepBatchsizeNumMicroBatchesCalculator      StepSchedule, in newer Megatron-LM
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Final

from resumable.errors import ConfigurationError, ResumptionError, warn
from resumable.extras import quietly
from resumable.protocols import BatchSchedule, MicrobatchCalculator
from resumable.steps.schedules import LinearRampup, StepSchedule

__all__ = [
    "FRAMEWORKS",
    "GLOBAL",
    "ApexCalculator",
    "MegatronCalculator",
    "calculator_in_use",
    "find_calculator",
    "schedule_in",
]

GLOBAL: Final = "_GLOBAL_NUM_MICROBATCHES_CALCULATOR"
"""The variable of a framework's module that holds the process's calculator."""


class _FrameworkCalculator:
    """The calculator that a framework keeps in a global of its module: a `MicrobatchCalculator`.

    The module is looked up by name at each use, as NeMo does: it has no types, and may have been replaced since.
    Before the framework has initialized the calculator, the sizes and `update` raise ResumptionError.
    """

    __slots__ = ()

    module: ClassVar[str]
    framework: ClassVar[str]
    initialized_by: ClassVar[str]

    @property
    def is_initialized(self) -> bool:
        """Whether the framework has set it up in this process."""
        framework = import_module(self.module)
        if hasattr(framework, GLOBAL):
            return getattr(framework, GLOBAL) is not None
        ask = framework.get_num_microbatches
        try:
            return ask() is not None
        except (AttributeError, TypeError):  # it asks None
            return False

    @property
    def current_global_batch_size(self) -> int:
        """Samples over all ranks that the step which begins now takes, in whole micro batches.

        megatron-core's running size is rounded down under `decrease_batch_size_if_needed` alone, and Apex's never. The
        number of micro batches is rounded down in each of them, so a step takes no more than these hold.
        """
        framework = self._initialized()
        running = getattr(framework, "get_current_running_global_batch_size", None)  # absent in Apex and older releases
        size = int((running or framework.get_current_global_batch_size)())
        ranks = getattr(getattr(framework, GLOBAL, None), "data_parallel_size", None)  # of those that vary the size
        return size - size % (framework.get_micro_batch_size() * ranks) if ranks else size

    @property
    def data_parallel_size(self) -> int:
        """Ranks that share the step which begins now."""
        framework = self._initialized()
        known = getattr(getattr(framework, GLOBAL, None), "data_parallel_size", None)  # of those that vary the size
        per_rank = framework.get_micro_batch_size() * framework.get_num_microbatches()
        return int(known or self.current_global_batch_size // per_rank)

    @property
    def schedule(self) -> BatchSchedule | None:
        """The batch sizes to come, where the calculator varies them; None where not, or before it is initialized."""
        return schedule_in(getattr(import_module(self.module), GLOBAL, None))

    def update(self, consumed_samples: int, /) -> None:
        """Move it to the step that begins at *consumed_samples*.

        Sizes that do not divide by micro_batch_size * data_parallel_size pass, as in NeMo's own load.
        """
        self._initialized().update_num_microbatches(consumed_samples=consumed_samples, consistency_check=False)

    def _initialized(self) -> ModuleType:
        if not self.is_initialized:
            raise ResumptionError(
                f"The microbatch calculator of {self.framework} is not initialized in this process.",
                [("module", self.module)],
                f"Call {self.initialized_by} first, or ask is_initialized.",
            )
        return import_module(self.module)


@dataclass(frozen=True, slots=True)
class MegatronCalculator(_FrameworkCalculator):
    """megatron-core's calculator of this process.

    Source: megatron-core 0.16.1, megatron/core/num_microbatches_calculator.py.
    """

    module: ClassVar[str] = "megatron.core.num_microbatches_calculator"
    framework: ClassVar[str] = "megatron-core"
    initialized_by: ClassVar[str] = "init_num_microbatches_calculator"


@dataclass(frozen=True, slots=True)
class ApexCalculator(_FrameworkCalculator):
    """Apex's calculator of this process.

    Source: NVIDIA/apex before the removal of `apex.transformer` in 2025/26, apex/transformer/pipeline_parallel/utils.py
    and apex/transformer/microbatches.py.
    """

    module: ClassVar[str] = "apex.transformer.pipeline_parallel.utils"
    framework: ClassVar[str] = "Apex"
    initialized_by: ClassVar[str] = "setup_microbatch_calculator"


FRAMEWORKS: Final = (MegatronCalculator.module, ApexCalculator.module)
"""The modules that hold a process's calculator."""


@cache
def find_calculator() -> MicrobatchCalculator | None:
    """The calculator of the first framework that can be imported, and None where neither is installed.

    megatron-core comes first, as in NeMo; Apex is taken with a `ResumptionWarning`. Decided by the first call, for the
    process. Only a framework that is not installed is passed over: any other error of its import is raised.
    """
    if _is_installed(MegatronCalculator.module):
        return MegatronCalculator()
    if not _is_installed(ApexCalculator.module):
        return None
    warn(
        "megatron-core cannot be imported: falling back to Apex for the number of micro batches.",
        [("missing", MegatronCalculator.module), ("found", ApexCalculator.module)],
        'Run: pip install "resumable-training[megatron]", or go on if the run sets up Apex\'s calculator.',
    )
    return ApexCalculator()


def calculator_in_use() -> MicrobatchCalculator | None:
    """The same, if its framework is imported: before that it is not set up, and to import it would take seconds."""
    return find_calculator() if any(name in sys.modules for name in FRAMEWORKS) else None


def _is_installed(module: str) -> bool:
    """Import *module*; False where it, or a package on the way to it, is not there."""
    try:
        with quietly(module.partition(".")[0]):
            import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        return False
    return True


def schedule_in(calculator: Any, /) -> LinearRampup | StepSchedule | None:
    """The schedule that *calculator*, an object of megatron-core's or Apex's, follows; None where it has none.

    Source: megatron/core/num_microbatches_calculator.py of megatron-core 0.16.1 and of Megatron-LM since pull request
    4411; apex/transformer/microbatches.py before its removal.

    >>> from types import SimpleNamespace
    >>> print(schedule_in(SimpleNamespace(schedule=[(0, 8), (20, 16)])))
    0:8 20:16
    """
    steps = getattr(calculator, "schedule", None)
    samples = getattr(calculator, "ramup_samples", None)  # so it is spelled
    try:
        if isinstance(steps, (list, tuple)):
            return StepSchedule(steps)  # type: ignore[arg-type]  # it is looked at there
        return None if samples is None else _ramp_in(calculator, samples)
    except (AttributeError, ConfigurationError):  # of another kind than those above
        return None


def _ramp_in(calculator: Any, samples: int) -> LinearRampup:
    starts = "start_global_batch_size" if hasattr(calculator, "start_global_batch_size") else "start_batch_size"
    is_rounded = getattr(calculator, "decrease_batch_size_if_needed", False)
    return LinearRampup(
        getattr(calculator, starts),
        calculator.global_batch_size,
        calculator.batch_size_increment,
        samples,
        divisor=calculator.micro_batch_size * calculator.data_parallel_size if is_rounded else 1,
    )
