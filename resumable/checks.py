"""Checks of single values that users and their code give, each in one place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, cast

from resumable.errors import ConfigurationError, StateError

__all__ = [
    "accepts",
    "as_int",
    "check_members",
    "check_schedule",
    "flag_of",
    "length_if_known",
    "seed_of",
    "whole_count",
    "whole_number",
]


def accepts(method: object, /, *arguments: object) -> bool:
    """Whether *method* is there and can be called with *arguments*.

    >>> accepts(len, []), accepts(len), accepts(None)
    (True, False, False)
    """
    if not callable(method):
        return False
    try:
        signature(cast("Callable[..., Any]", method)).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # some methods written in C have no signature to look at
        return True
    return True


def as_int(value: object, /) -> int | None:
    """*value* as an int, from an int, a NumPy integer or a 0-d integer tensor that has a value; None for anything else.

    bool and float are refused, Python's, NumPy's and torch's: they come from a mistake.

    >>> as_int(48), as_int(True), as_int(48.0)
    (48, None, None)
    """
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        return None if str(getattr(value, "dtype", "")).endswith("bool") else operator.index(cast("Any", value))
    except Exception:  # noqa: BLE001  # a TypeError as a rule; a tensor on the meta device raises another error
        return None


def whole_number(name: str, value: object, *, least: int | None = 0) -> int:
    """The argument *name* as an int of at least *least*, if that is not None; otherwise raise ConfigurationError.

    >>> whole_number("steps", 3)
    3
    """
    number = as_int(value)
    if number is None:
        raise ConfigurationError(
            f"{name} must be a whole number.",
            [(name, value), ("type", type(value).__name__)],
            f"Pass {name} as an int.",
        )
    if least is not None and number < least:
        raise ConfigurationError(
            f"{name} is too small.", [(name, number), ("least", least)], f"Pass {name} >= {least}."
        )
    return number


def whole_count(value: object, what: str, /) -> int:
    """A number of samples that the user's *what* returned, as an int.

    Raises:
        StateError: if it is not a whole number, or is negative.

    >>> whole_count(48, "compute_consumed_samples()")
    48
    """
    number = as_int(value)
    if number is None or number < 0:
        raise StateError(f"{what} must be a whole number of samples.", [("got", value)], "Return an int >= 0.")
    return number


def length_if_known(thing: object, /) -> int | None:
    """The length of *thing*; None where it has none, or says so by an error of any kind, as PyTorch Geometric's samplers do.

    >>> length_if_known([1, 2]), length_if_known(iter([1, 2]))
    (2, None)
    """
    try:
        return len(cast("Any", thing))
    except Exception:  # noqa: BLE001  # the user's; a loop without a length trains without it
        return None


def seed_of(seed: object, /) -> int:
    """*seed* as an int from 0 to 2**64 - 1; otherwise raise ConfigurationError.

    >>> seed_of(3)
    3
    """
    number = whole_number("seed", seed, least=None)
    if not 0 <= number < 2**64:
        raise ConfigurationError(
            "A seed must fit into 64 bits.",
            [("seed", number), ("smallest", 0), ("largest", 2**64 - 1)],
            "Pass a seed in this range, such as seed % 2**64.",
        )
    return number


def flag_of(name: str, value: object) -> bool:
    """The argument *name* as a bool; otherwise raise ConfigurationError.

    >>> flag_of("reseed", True)
    True
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is either on or off.", [(name, value)], f"Pass {name}=True, or leave it out.")
    return value


def check_schedule(schedule: object, /) -> None:
    """Raise ConfigurationError unless *schedule* has the methods of a `BatchSchedule`.

    >>> check_schedule(1024)
    Traceback (most recent call last):
    resumable.errors.ConfigurationError: schedule= lacks the methods of a BatchSchedule.
      needed:   'batch_size_at, samples_after, steps_between'
      schedule: 1024
    Pass a schedule, such as ConstantBatchSize(1024).
    """
    check_members(
        "schedule",
        schedule,
        ("batch_size_at", "samples_after", "steps_between"),
        "schedule= lacks the methods of a BatchSchedule.",
        "Pass a schedule, such as ConstantBatchSize(1024).",
    )


def check_members(name: str, value: object, needed: Sequence[str], what: str, advice: str, /) -> None:
    """Raise ConfigurationError with *what* and *advice* unless the argument *name* is an object with all *needed* members.

    It looks at their names alone: a framework's properties may raise before it is initialized.

    >>> check_members("order", [1, 2], ("indices",), "order= lacks indices().", "Pass Sequential(n).")
    Traceback (most recent call last):
    resumable.errors.ConfigurationError: order= lacks indices().
      needed: 'indices'
      order:  [1, 2]
    Pass Sequential(n).
    """
    has_all = hasattr(type(value), "__getattr__") or set(needed) <= set(dir(value))
    if isinstance(value, type) or not has_all:
        raise ConfigurationError(what, [("needed", ", ".join(needed)), (name, value)], advice)
