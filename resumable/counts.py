"""Counts that somebody else's code gives, whatever kind of number they are."""

from __future__ import annotations

import operator
from typing import Any

from resumable.errors import StateError, explain

__all__ = ["whole_count"]


def whole_count(value: Any, what: str, /) -> int:
    """*value*, which *what* gave, as an int: from an int, a NumPy integer or a 0-d integer tensor on any device.

    Raises:
        StateError: if it is no whole number, or is negative.

    >>> whole_count(48, "compute_consumed_samples()")
    48
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise StateError(
            explain(f"{what} gave no whole number.", [("got", value)], "Return an integer number of samples.")
        ) from None
    if number < 0:
        raise StateError(explain(f"{what} gave a negative number.", [("got", number)], "Return 0 or more samples."))
    return number
