"""Optional packages: the extra that installs a missing one, and an import without warnings."""

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
    "tqdm": "lightning",
    "torchdata": "torchdata",
    "accelerate": "accelerate",
    "megatron": "megatron",
    "matplotlib": "demo",
    "rich": "demo",
}


@contextmanager
def naming_the_extra(extra: str | None = None, /) -> Generator[None, None, None]:
    """Name the extra to install, *extra* or the package's own, if an import inside the block lacks an optional package.

    Raises `MissingExtraError` for a package that an extra installs; other errors are left as they are.

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
        extra = _EXTRA.get(package) and (extra or _EXTRA[package])
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
    """Suppress warnings inside the block, and what *package* logs below ERROR.

    For imports that the user did not write, so that a framework's remarks on the user's machine do not appear to come
    from this package. The block ends with the filters and the level restored.

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
