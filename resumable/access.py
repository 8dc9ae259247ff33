"""Reaching the state of a decorated datamodule, and telling whether a class is decorated."""

from __future__ import annotations

from typing import Any, Protocol

from typing_extensions import TypeIs

from resumable.errors import DecorationError, explain
from resumable.protocols import SavesState, SupportsTraining
from resumable.state import ResumptionState

__all__ = ["MARK", "Resumable", "is_resumable", "resumption_of"]

MARK = "__resumable_options__"
"""The class attribute that `@resumable` leaves: its options."""
_HELD = "_resumption_state"


class Resumable(SupportsTraining, SavesState, Protocol):
    """What an instance of a decorated class offers."""


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
    held: dict[str, Any] = vars(datamodule)
    state, owner = held.get(_HELD, (None, None))
    if state is None or owner != id(datamodule):  # a shallow copy shares its original's values
        fresh = ResumptionState()
        if state is not None:
            fresh.__setstate__(state.__getstate__())
        state = fresh
        held[_HELD] = (state, id(datamodule))
    return state
