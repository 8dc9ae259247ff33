"""Any training run, killed anywhere, goes on with the exact next sample.

    from resumable import resumable          # a decorator for a LightningDataModule
    from resumable import ResumableLoader    # a DataLoader for loops without Lightning
    from resumable import ResumptionState    # the position itself, for anything else

Each name is imported when it is first used (PEP 562), so that `import resumable` costs milliseconds
and brings neither NumPy nor torch nor a framework.
"""

from __future__ import annotations

__docformat__ = "google"  # for pdoc: how the docstrings are laid out

from typing import TYPE_CHECKING, Final

# Where each public name lives, once for type checkers and once for the run time. A test holds the two together.
if TYPE_CHECKING:
    from .adapters.distributed import agree_to_stop as agree_to_stop
    from .decorator import is_resumable as is_resumable
    from .decorator import resumable as resumable
    from .decorator import resumption_of as resumption_of
    from .errors import AgreementError as AgreementError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConformanceError as ConformanceError
    from .errors import DecorationError as DecorationError
    from .errors import MismatchError as MismatchError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import MissingStateError as MissingStateError
    from .errors import ReplayError as ReplayError
    from .errors import ResumptionError as ResumptionError
    from .errors import ResumptionWarning as ResumptionWarning
    from .errors import StateError as StateError
    from .feeds.draws import SampleIndex as SampleIndex
    from .loader import ResumableLoader as ResumableLoader
    from .orders.orders import Sequential as Sequential
    from .orders.orders import Shuffled as Shuffled
    from .position import Position as Position
    from .protocols import AllGather as AllGather
    from .protocols import BatchSchedule as BatchSchedule
    from .protocols import DataSampler as DataSampler
    from .protocols import MicrobatchCalculator as MicrobatchCalculator
    from .protocols import Order as Order
    from .protocols import Ranks as Ranks
    from .protocols import Trainer as Trainer
    from .randomness import sample_rng as sample_rng
    from .randomness import sample_seed as sample_seed
    from .saved.ledger import Ledger as Ledger
    from .saved.ledger import Stretch as Stretch
    from .state import ResumptionState as ResumptionState
    from .steps.batch_plan import DropLast as DropLast
    from .steps.schedules import ConstantBatchSize as ConstantBatchSize
    from .steps.schedules import LinearRampup as LinearRampup
    from .steps.schedules import StepSchedule as StepSchedule
    from .stopping.signals import stop_on as stop_on
    from .stopping.workers import shield as shield
    from .verdict import Difference as Difference
    from .verdict import OnMismatch as OnMismatch
    from .verdict import Verdict as Verdict

    __version__: str

else:  # a type checker that saw __getattr__ would take every misspelt name for Any
    import sys
    from importlib import import_module
    from types import ModuleType

    _NAMES: Final = {
        "adapters.distributed": "agree_to_stop",
        "decorator": "is_resumable resumable resumption_of",
        "errors": "AgreementError ConfigurationError ConformanceError DecorationError MismatchError MissingExtraError "
        "MissingStateError ReplayError ResumptionError ResumptionWarning StateError",
        "feeds.draws": "SampleIndex",
        "loader": "ResumableLoader",
        "orders.orders": "Sequential Shuffled",
        "position": "Position",
        "protocols": "AllGather BatchSchedule DataSampler MicrobatchCalculator Order Ranks Trainer",
        "randomness": "sample_rng sample_seed",
        "saved.ledger": "Ledger Stretch",
        "state": "ResumptionState",
        "steps.batch_plan": "DropLast",
        "steps.schedules": "ConstantBatchSize LinearRampup StepSchedule",
        "stopping.signals": "stop_on",
        "stopping.workers": "shield",
        "verdict": "Difference OnMismatch Verdict",
    }
    _HOME: Final = {name: module for module, names in _NAMES.items() for name in names.split()}
    __all__ = list(_HOME)

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = _version()
        elif name in _HOME:
            value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        globals()[name] = value  # the next use finds it without a call
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})

    def _version() -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("resumable-training")
        except PackageNotFoundError:
            return "(not installed: run from its source)"

    class _Package(ModuleType):
        """This module, which `import resumable` puts in the decorator's place."""

        def __call__(self, *args: object, **options: object) -> object:
            from resumable.errors import DecorationError

            raise DecorationError(
                "@resumable is the module here, not the decorator.",
                [("imported by", "import resumable")],
                "Write: from resumable import resumable",
            )

    sys.modules[__name__].__class__ = _Package
