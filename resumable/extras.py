"""Optional packages: the extra that brings a missing one, and an import that makes no noise."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from resumable.errors import MissingExtraError, explain

__all__ = ["naming_the_extra", "quietly"]

# Import name of what is optional -> the extra of this package that installs it.
_EXTRA: Final = {
    "lightning": "lightning",
    "megatron": "megatron",
    "matplotlib": "demo",
    "rich": "demo",
}


@contextmanager
def naming_the_extra() -> Generator[None, None, None]:
    """Imports inside the block that fail for want of an optional package say which extra brings it.

    Raises `MissingExtraError` for what an extra of this package installs; every other error passes as it is.

    >>> with naming_the_extra():
    ...     raise ModuleNotFoundError("No module named 'rich'", name="rich.table")
    Traceback (most recent call last):
    resumable.errors.MissingExtraError: rich is not installed.
      needed: 'rich.table'
      extra:  'demo'
    Run: pip install "resumable-training[demo]"
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
            f'Run: pip install "resumable-training[{extra}]"',
        )
        raise MissingExtraError(message, name=error.name) from error


@contextmanager
def quietly(package: str, /) -> Generator[None, None, None]:
    """Imports inside the block give no warning, and what *package* logs is heard from ERROR upward only.

    For an import that the user did not write: what a framework says of the user's machine while it is imported is
    then this package's noise. Filters and level are as before behind the block.

    >>> with quietly("megatron"):
    ...     warnings.warn("Transformer Engine is not installed.")
    ...     logging.getLogger("megatron.core").warning("Falling back.")
    """
    logger = logging.getLogger(package)
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(max(level, logging.ERROR))
        try:
            yield
        finally:
            logger.setLevel(level)
