"""Which microbatch calculator this process has: megatron-core's, else Apex's, else none.

    calculator = find_calculator()
    if calculator is not None and calculator.is_initialized:
        calculator.update(consumed_samples)

The framework is imported by the first call, not by an import of this module: megatron-core takes seconds.
"""

from __future__ import annotations

import sys
from functools import cache

from resumable.errors import explain, warn
from resumable.protocols import MicrobatchCalculator

__all__ = ["FRAMEWORKS", "calculator_in_use", "find_calculator"]

_MEGATRON = "megatron.core.num_microbatches_calculator"
_APEX = "apex.transformer.pipeline_parallel.utils"
FRAMEWORKS = (_MEGATRON, _APEX)
"""The modules that hold a process's calculator."""


@cache
def find_calculator() -> MicrobatchCalculator | None:
    """The calculator of the first framework that can be imported, and None where neither is installed.

    megatron-core comes first, as in NeMo; Apex is taken with a `ResumptionWarning`. Decided by the first call, for the
    process. Only a framework that is not there is passed over: any other error of its import is raised.
    """
    return _megatron() or _apex()


def calculator_in_use() -> MicrobatchCalculator | None:
    """The same, if its framework is imported: before that nobody has set it up, and to find it would take seconds."""
    return find_calculator() if any(name in sys.modules for name in FRAMEWORKS) else None


def _megatron() -> MicrobatchCalculator | None:
    try:
        from resumable.adapters.megatron import Calculator
    except ModuleNotFoundError as error:
        _check_is_absent(_MEGATRON, error)
        return None
    return Calculator()


def _apex() -> MicrobatchCalculator | None:
    try:
        from resumable.adapters.apex import Calculator
    except ModuleNotFoundError as error:
        _check_is_absent(_APEX, error)
        return None
    warn(
        explain(
            "megatron-core cannot be imported: falling back to Apex for the number of micro batches.",
            [("missing", _MEGATRON), ("found", _APEX)],
            'Run: pip install "resumable[megatron]", or go on if the run sets up Apex\'s calculator.',
        )
    )
    return Calculator()


def _check_is_absent(module: str, error: ModuleNotFoundError) -> None:
    """Raise *error* again, unless what was not found is *module* or a package on the way to it."""
    if not f"{module}.".startswith(f"{error.name}."):
        raise error
