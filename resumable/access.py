"""Reaching the state of a decorated datamodule, and telling whether a class is decorated."""

from __future__ import annotations

from typing import Any, Protocol

from typing_extensions import TypeIs

from resumable.errors import DecorationError, explain
from resumable.protocols import SupportsTraining
from resumable.state import ResumptionState

__all__ = ["MARK", "Resumable", "is_resumable", "resumption_of"]

MARK = "__resumable_options__"
"""The class attribute that `@resumable` leaves: its options."""
_HELD = "_resumption_state"


class Resumable(SupportsTraining, Protocol):
    """What an instance of a decorated class offers."""

    @property
    def __resumable_options__(self) -> object:
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
        DecorationError: if its class is not decorated.
    """
    if not is_resumable(datamodule):
        raise DecorationError(
            explain(
                f"{type(datamodule).__qualname__} has no resumption state.",
                [("class", type(datamodule).__qualname__)],
                "Put @resumable above the class.",
            )
        )
    instance: dict[str, Any] = vars(datamodule)
    held: tuple[ResumptionState, int] | None = instance.get(_HELD)
    if held is not None and held[1] == id(datamodule):
        return held[0]
    state = ResumptionState()
    if held is not None:  # a copy of the instance, which goes its own way from where its original stood
        state.__setstate__(held[0].__getstate__())
    instance[_HELD] = (state, id(datamodule))
    return state
