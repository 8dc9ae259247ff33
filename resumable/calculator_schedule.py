"""The batch sizes that a framework's calculator was set up with, read off it as a schedule.

ConstantNumMicroBatchesCalculator        None: nothing varies
RampupBatchsizeNumMicroBatchesCalculator LinearRampup; Apex's, of the same numbers, is named a little shorter
StepBatchsizeNumMicroBatchesCalculator   StepSchedule, in newer Megatron-LM
"""

from __future__ import annotations

from typing import Any

from resumable.errors import ConfigurationError
from resumable.schedules import LinearRampup, StepSchedule

__all__ = ["schedule_in"]


def schedule_in(calculator: Any, /) -> LinearRampup | StepSchedule | None:
    """The schedule that *calculator*, an object of megatron-core's or Apex's, follows; None where it has none.

    Source: megatron/core/num_microbatches_calculator.py of megatron-core 0.16.1 and of Megatron-LM behind pull request
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
