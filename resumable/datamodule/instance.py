"""Reaching the state of a decorated datamodule, and telling whether a class is decorated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from typing_extensions import TypeIs

from resumable.data_sampler.calculators import find_calculator
from resumable.data_sampler.progress import ATTRIBUTES, DataSamplerProgress
from resumable.data_sampler.step_observer import watch
from resumable.datamodule.options import MARK, Options
from resumable.errors import DecorationError, explain
from resumable.protocols import DataSampler, MicrobatchCalculator, SupportsTraining
from resumable.saved.snapshot import Snapshot
from resumable.state import ResumptionState

__all__ = ["Resumable", "calculators_of", "is_lightning", "is_resumable", "resumption_of", "sampler_of"]

_HELD = "_resumption_state"
_COUNT = "compute_consumed_samples"


class Resumable(SupportsTraining, Protocol):
    """What an instance of a decorated class offers."""

    @property
    def __resumable_options__(self) -> Options:
        """The decorator's options. No undecorated class has them, so that `is_resumable` tells the two apart."""
        ...


def is_resumable(thing: object, /) -> TypeIs[Resumable]:
    """Whether *thing*'s class is decorated. It looks at the class alone, so no property is run.

    >>> is_resumable(object())
    False
    """
    return hasattr(type(thing), MARK)


def resumption_of(datamodule: SupportsTraining, /) -> ResumptionState:
    """The state of an instance of a decorated class: made at first use, and kept in the instance.

    Raises:
        DecorationError: if its class is not decorated, or the sampler that its decorator names is not there.
    """
    if not is_resumable(datamodule):
        raise DecorationError(
            explain(
                f"{type(datamodule).__qualname__} has no resumption state.",
                [("class", type(datamodule).__qualname__)],
                "Put @resumable above the class.",
            )
        )
    state = _state_in(datamodule)
    sampler = sampler_of(datamodule)
    if sampler is not None and not is_lightning(getattr(datamodule, "trainer", None)):
        _count_with(state, sampler, datamodule)
    return state


def sampler_of(datamodule: Resumable, /) -> DataSampler | None:
    """The data sampler of an instance of a decorated class; None where its decorator names none and it has none.

    Raises:
        DecorationError: if the one that it has lacks something, or the decorator names one that it has not.
    """
    options = datamodule.__resumable_options__
    sampler: Any = getattr(datamodule, options.sampler or "data_sampler", None)
    if options.sampler is None and not callable(getattr(sampler, _COUNT, None)):
        return None
    missing = [name for name in (_COUNT, *ATTRIBUTES) if not hasattr(sampler, name)]
    if missing:
        name = f"{type(datamodule).__qualname__}.{options.sampler or 'data_sampler'}"
        raise DecorationError(
            explain(
                f"{name} is no data sampler.",
                [("is a", type(sampler).__qualname__), ("missing", missing)],
                "Set it in __init__ or setup() to an object of the shape of resumable.DataSampler, such as NeMo's "
                "MegatronDataSampler.",
            )
        )
    return cast("DataSampler", sampler)


def calculators_of(datamodule: Resumable, /) -> Callable[[], MicrobatchCalculator | None]:
    """Who is told where the run stands: as the decorator says, else whichever framework is there."""
    given = datamodule.__resumable_options__.calculator
    return find_calculator if given is None else lambda: given


def is_lightning(trainer: object) -> bool:
    """Whether *trainer* is a Lightning Trainer, told by its class's bases, so that Lightning need not be imported."""
    return any(
        base.__name__ == "Trainer" and base.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for base in type(trainer).__mro__
    )


def _state_in(datamodule: Resumable) -> ResumptionState:
    if not hasattr(datamodule, "__dict__"):
        raise DecorationError(
            explain(
                f"{type(datamodule).__qualname__} has no __dict__, so its instances cannot hold a state.",
                [("__slots__", getattr(datamodule, "__slots__", ()))],
                "Leave slots=True out of its @dataclass, or add '__dict__' to its __slots__.",
            )
        )
    instance: dict[str, Any] = vars(datamodule)
    held: tuple[ResumptionState, int] | None = instance.get(_HELD)
    if held is not None and held[1] == id(datamodule):
        return held[0]
    state = ResumptionState()
    if held is not None:  # a copy of the instance, which goes its own way from where its original stood
        state.__setstate__(held[0].__getstate__())
    state.agreement = datamodule.__resumable_options__.agreement
    instance[_HELD] = (state, id(datamodule))
    return state


def _count_with(state: ResumptionState, sampler: DataSampler, datamodule: Resumable) -> None:
    """Let *sampler* count the trainer's steps, if nothing counts yet or another sampler does."""
    counts = state.frontier
    if counts is not None and (not isinstance(counts, DataSamplerProgress) or counts.sampler is sampler):
        return
    options = datamodule.__resumable_options__
    frontier = DataSamplerProgress(
        sampler,
        lambda: getattr(datamodule, "trainer", None),
        schedule=options.schedule,
        calculator=calculators_of(datamodule),
        on_mismatch=options.policy.on_mismatch,
        judge=state.judge,
    )
    watch(sampler, frontier)
    if state.snapshot() == Snapshot():
        state.follow(frontier)
    else:
        state.connect(frontier)
