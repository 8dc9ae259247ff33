"""The frameworks whose trainers train with our loaders: a trainer's class leads to the file that adapts it, by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__all__ = ["TRAINERS", "adapter_for", "framework_of", "hand_over"]

_ADAPTERS: Final = "resumable.adapters"

TRAINERS: Final = {
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
}
"""The package of a framework's Trainer class, and the file of `resumable.adapters` that adapts it."""


def framework_of(thing: object, /) -> str | None:
    """The adapter's name for the framework that defines *thing*, a class or a function; None if there is none for it.

    >>> framework_of(dict) is None
    True
    """
    return TRAINERS.get(str(getattr(thing, "__module__", None)).partition(".")[0])


def adapter_for(trainer: object, /) -> Any | None:
    """The `Adapter` of *trainer*, whose framework is known by its class; None if there is none.

    >>> adapter_for(None) is None
    True
    """
    for base in type(trainer).__mro__:
        name = framework_of(base) if base.__name__ == "Trainer" else None
        if name is not None:
            return import_module(f"{_ADAPTERS}.{name}").Adapter(trainer)
    return None


def hand_over(trainer: object, passes: object, /) -> Any | None:
    """The passes of a loader in the fit of *trainer* that iterates it; None where its *passes* in loops go on.

    >>> hand_over(None, None) is None
    True
    """
    adapter = adapter_for(trainer)
    return None if adapter is None else adapter.passes_of(passes)
