"""One framework, one module: each file here imports its framework at the top and is imported on first need.

    from resumable.adapters import lightning    # where Lightning is missing, the error names the extra to install

All modules here export the same few names, so that the next adapter is written by copying the smallest.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from resumable.errors import ResumptionError, explain

__all__ = ["MissingExtraError", "naming_the_extra"]

# Import name of what is optional -> the extra of this package that installs it.
_EXTRA: Final = {
    "lightning": "lightning",
    "megatron": "megatron",
    "matplotlib": "demo",
    "rich": "demo",
}


class MissingExtraError(ResumptionError, ImportError):
    """An optional package is not installed. The message names the extra that brings it."""


@contextmanager
def naming_the_extra() -> Generator[None, None, None]:
    """Imports inside the block that fail for want of an optional package say which extra brings it.

    Raises `MissingExtraError` for what an extra of this package installs; every other error passes as it is.

    >>> with naming_the_extra():
    ...     raise ModuleNotFoundError("No module named 'rich'", name="rich.table")
    Traceback (most recent call last):
    resumable.adapters.MissingExtraError: rich is not installed.
      needed: 'rich.table'
      extra:  'demo'
    Run: pip install "resumable[demo]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = _EXTRA.get(package)
        if extra is None:
            raise
        message = explain(
            f"{package} is not installed.",
            [("needed", error.name), ("extra", extra)],
            f'Run: pip install "resumable[{extra}]"',
        )
        raise MissingExtraError(message, name=error.name) from error


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would take every misspelt name for Any

    def __getattr__(name: str) -> object:
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        with naming_the_extra():
            return import_module(f"{__name__}.{name}")
