"""Any training run, killed anywhere, goes on with the exact next sample.

    from resumable import resumable          # a decorator for a LightningDataModule
    from resumable import ResumableLoader    # a DataLoader for loops without Lightning
    from resumable import ResumptionState    # the position itself, for anything else

Each name is imported when it is first used (PEP 562), so that `import resumable` costs milliseconds
and brings neither NumPy nor torch nor a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .adapters.distributed import agree_to_stop
    from .decorator import is_resumable, resumable, resumption_of
    from .errors import (
        AgreementError,
        ConfigurationError,
        DecorationError,
        MismatchError,
        MissingExtraError,
        MissingStateError,
        ReplayError,
        ResumptionError,
        ResumptionWarning,
        StateError,
    )
    from .loader import ResumableLoader
    from .orders.orders import Sequential, Shuffled
    from .position import Position
    from .protocols import AllGather, BatchSchedule, DataSampler, MicrobatchCalculator, Order, Ranks, Trainer
    from .saved.ledger import Ledger
    from .state import ResumptionState
    from .steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
    from .stopping.signals import stop_on
    from .stopping.workers import shield
    from .verdict import Verdict

__all__ = [
    "AgreementError",
    "AllGather",
    "BatchSchedule",
    "ConfigurationError",
    "ConstantBatchSize",
    "DataSampler",
    "DecorationError",
    "Ledger",
    "LinearRampup",
    "MicrobatchCalculator",
    "MismatchError",
    "MissingExtraError",
    "MissingStateError",
    "Order",
    "Position",
    "Ranks",
    "ReplayError",
    "ResumableLoader",
    "ResumptionError",
    "ResumptionState",
    "ResumptionWarning",
    "Sequential",
    "Shuffled",
    "StateError",
    "StepSchedule",
    "Trainer",
    "Verdict",
    "agree_to_stop",
    "is_resumable",
    "resumable",
    "resumption_of",
    "shield",
    "stop_on",
]

# Where each public name lives. A test holds this table, __all__ and the imports for type checkers together.
_HOME: Final = {
    "AgreementError": "errors",
    "AllGather": "protocols",
    "BatchSchedule": "protocols",
    "ConfigurationError": "errors",
    "ConstantBatchSize": "steps.schedules",
    "DataSampler": "protocols",
    "DecorationError": "errors",
    "Ledger": "saved.ledger",
    "LinearRampup": "steps.schedules",
    "MicrobatchCalculator": "protocols",
    "MismatchError": "errors",
    "MissingExtraError": "errors",
    "MissingStateError": "errors",
    "Order": "protocols",
    "Position": "position",
    "Ranks": "protocols",
    "ReplayError": "errors",
    "ResumableLoader": "loader",
    "ResumptionError": "errors",
    "ResumptionState": "state",
    "ResumptionWarning": "errors",
    "Sequential": "orders.orders",
    "Shuffled": "orders.orders",
    "StateError": "errors",
    "StepSchedule": "steps.schedules",
    "Trainer": "protocols",
    "Verdict": "verdict",
    "agree_to_stop": "adapters.distributed",
    "is_resumable": "decorator",
    "resumable": "decorator",
    "resumption_of": "decorator",
    "shield": "stopping.workers",
    "stop_on": "stopping.signals",
}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would take every misspelt name for Any

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value  # the next use finds it without a call
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
