"""One framework, one file. Each imports its framework at the top and is itself imported on first use.

    from resumable.adapters import lightning    # if Lightning is missing, the error names the extra to install

All files export the same few names, so that the next adapter is written by copying the smallest:

    Ranks         which part of the data this process loads     distributed  device_mesh  megatron  lightning
                                                                accelerate  fabric
    prepare       the same loader, for a framework's own loop   accelerate  fabric
    AllGather     the records of all ranks                       distributed
    Calculator    how many micro batches a step takes            megatron  apex
    Adapter       a framework's trainer, for `@resumable`        lightning
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from resumable.errors import MissingExtraError
from resumable.extras import naming_the_extra

__all__ = [
    "TRAINERS",
    "MissingExtraError",
    "adapter_for",
    "framework_of",
    "hand_over",
    "naming_the_extra",
]

TRAINERS: Final = {
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
}
"""The package of a framework's Trainer class, and the file here that adapts it."""


def framework_of(thing: object, /) -> str | None:
    """The adapter's name for the framework that defines *thing*, a class or a function; None if no framework here does.

    >>> framework_of(dict) is None
    True
    """
    return TRAINERS.get(str(getattr(thing, "__module__", None)).partition(".")[0])


def adapter_for(trainer: object, /) -> Any | None:
    """The `Adapter` of *trainer*, whose framework is known by its class; None if no framework here has a trainer of its kind.

    >>> adapter_for(None) is None
    True
    """
    for base in type(trainer).__mro__:
        name = framework_of(base) if base.__name__ == "Trainer" else None
        if name is not None:
            return import_module(f"{__name__}.{name}").Adapter(trainer)
    return None


def hand_over(trainer: object, passes: object, /) -> Any | None:
    """The passes of a loader in the fit of *trainer* that iterates it; None where its *passes* in loops go on.

    >>> hand_over(None, None) is None
    True
    """
    adapter = adapter_for(trainer)
    return None if adapter is None else adapter.passes_of(passes)


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would take every misspelt name for Any

    def __getattr__(name: str) -> object:
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        with naming_the_extra():
            return import_module(f"{__name__}.{name}")
