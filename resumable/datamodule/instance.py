"""The state that an instance of a decorated class holds, and the data sampler that it has."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol, cast

from typing_extensions import TypeIs

from resumable.data_sampler.calculators import find_calculator
from resumable.data_sampler.progress import ATTRIBUTES, DataSamplerProgress
from resumable.datamodule.options import MARK, Options
from resumable.datamodule.trainer import TrainerAdapter, adapter_of
from resumable.errors import DecorationError, explain
from resumable.protocols import DataSampler, SupportsTraining
from resumable.state import ResumptionState, tracker_of

__all__ = ["Resumable", "follow_sampler", "is_resumable", "resumption_of", "sampler_of"]

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
    if sampler is not None and (trainer := adapter_of(datamodule)).follows_at_once:
        follow_sampler(datamodule, trainer, state, sampler)
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


def follow_sampler(
    datamodule: Resumable, trainer: TrainerAdapter, state: ResumptionState, sampler: DataSampler, /
) -> DataSamplerProgress:
    """Let *state* count with *sampler*, as the decorator's options say."""
    options = datamodule.__resumable_options__
    given = options.calculator
    return trainer.follow_sampler(
        tracker_of(state),
        sampler,
        schedule=options.schedule,
        calculator=find_calculator if given is None else lambda: given,
        on_mismatch=options.policy.on_mismatch,
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
    # a copy of the instance goes its own way from the original's position
    state = ResumptionState() if held is None else copy(held[0])
    tracker_of(state).agreement = datamodule.__resumable_options__.agreement
    instance[_HELD] = (state, id(datamodule))
    return state
