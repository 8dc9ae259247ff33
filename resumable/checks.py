"""Checks of single values that users and their code give, each in one place."""

from __future__ import annotations

import operator
from operator import index
from typing import Any

from resumable.errors import ConfigurationError, StateError, explain

__all__ = ["whole_count", "whole_number"]


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


def whole_number(name: str, value: object, *, least: int | None = 0) -> int:
    """*value* as an int of at least *least*, if that is not None; else a ConfigurationError that calls it *name*.

    Integers of NumPy are taken; bool and float are not, since they come from a mistake.

    >>> whole_number("steps", 3)
    3
    """
    try:
        if type(value).__name__ in ("bool", "bool_"):  # both pass for an index, NumPy's in NumPy 1
            raise TypeError
        number = index(value)  # type: ignore[arg-type]  # the TypeError is the question
    except TypeError:
        raise ConfigurationError(
            explain(
                f"{name} must be a whole number.",
                [(name, value), ("type", type(value).__name__)],
                f"Pass {name} as an int.",
            )
        ) from None
    if least is not None and number < least:
        raise ConfigurationError(
            explain(f"{name} is too small.", [(name, number), ("least", least)], f"Pass {name} >= {least}.")
        )
    return number
