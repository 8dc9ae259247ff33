"""The state that an instance of a decorated class holds, and the data sampler that it has."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol, cast

from typing_extensions import TypeIs

from resumable.data_sampler.written import ATTRIBUTES
from resumable.datamodule.options import MARK, Options
from resumable.datamodule.trainer import adapter_of
from resumable.errors import DecorationError
from resumable.protocols import DataSampler, SupportsTraining
from resumable.state import ResumptionState, tracker_of

__all__ = ["Resumable", "is_resumable", "resumption_of", "sampler_of"]

_HELD = "_resumption_state"
_COUNT = "compute_consumed_samples"


class Resumable(SupportsTraining, Protocol):
    """What an instance of a decorated class offers."""

    @property
    def __resumable_options__(self) -> Options:
        """The decorator's options, which no undecorated class has."""
        ...


def is_resumable(thing: object, /) -> TypeIs[Resumable]:
    """Whether *thing*'s class is decorated. Only the class is looked at, so no property runs.

    >>> is_resumable(object())
    False
    """
    return hasattr(type(thing), MARK)


def resumption_of(datamodule: SupportsTraining, /) -> ResumptionState:
    """The state of an instance of a decorated class, made at first use and kept in the instance.

    Raises:
        DecorationError: if its class is not decorated, or it lacks the sampler that its decorator names.
    """
    if not is_resumable(datamodule):
        raise DecorationError(
            f"{type(datamodule).__qualname__} has no resumption state.",
            [("class", type(datamodule).__qualname__)],
            "Put @resumable above the class.",
        )
    state = _state_in(datamodule)
    sampler, tracker = sampler_of(datamodule), tracker_of(state)
    if sampler is not None and getattr(tracker.progress, "sampler", None) is not sampler:
        trainer = adapter_of(datamodule)
        if trainer.follows_at_once:
            trainer.follow_sampler(tracker, sampler, datamodule.__resumable_options__.sampling)
    return state


def sampler_of(datamodule: Resumable, /) -> DataSampler | None:
    """The data sampler of an instance of a decorated class; None where its decorator names none and it has none.

    Raises:
        DecorationError: if it lacks the sampler that its decorator names, or the sampler lacks members.
    """
    options = datamodule.__resumable_options__
    sampler: Any = getattr(datamodule, options.attribute, None)
    if options.sampler is None and not callable(getattr(sampler, _COUNT, None)):
        return None
    missing = [name for name in (_COUNT, *ATTRIBUTES) if not hasattr(sampler, name)]
    if missing:
        raise DecorationError(
            f"{type(datamodule).__qualname__}.{options.attribute} lacks members of a DataSampler.",
            [("is a", type(sampler).__qualname__), ("missing", missing)],
            "Set it in __init__ or setup() to an object of the shape of resumable.DataSampler, such as NeMo's "
            "MegatronDataSampler.",
        )
    return cast("DataSampler", sampler)


def _state_in(datamodule: Resumable) -> ResumptionState:
    if not hasattr(datamodule, "__dict__"):
        raise DecorationError(
            f"{type(datamodule).__qualname__} has no __dict__, so its instances cannot hold a state.",
            [("__slots__", getattr(datamodule, "__slots__", ()))],
            "Leave slots=True out of its @dataclass, or add '__dict__' to its __slots__.",
        )
    instance: dict[str, Any] = vars(datamodule)
    held: tuple[ResumptionState, int] | None = instance.get(_HELD)
    if held is not None and held[1] == id(datamodule):
        return held[0]
    # a copy of the instance goes on by itself, from the original's position
    state = ResumptionState() if held is None else copy(held[0])
    options, tracker = datamodule.__resumable_options__, tracker_of(state)
    tracker.agreement, tracker.logs = options.agreement, options.log
    tracker.audit = copy(options.audit)  # each instance has a file of its own
    instance[_HELD] = (state, id(datamodule))
    return state
