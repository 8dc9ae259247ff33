"""Optional packages: the extra that installs a missing one, and an import without warnings."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from resumable.errors import MissingExtraError, explain

__all__ = ["check_release", "naming_the_extra", "quietly"]

# Import name of what is optional -> the extra of this package that installs it.
_EXTRA: Final = {
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
    "tqdm": "lightning",
    "torchdata": "torchdata",
    "accelerate": "accelerate",
    "megatron": "megatron",
    "transformers": "transformers",
    "ray": "ray",
    "matplotlib": "report",
    "plotly": "report",
    "rich": "demo",
}

# Import name -> the first release that was tested, as pyproject.toml has it.
_LOWEST: Final = {"lightning": (2, 4), "pytorch_lightning": (2, 4)}


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


def check_release(package: str, extra: str | None = None, /) -> None:
    """Raise `MissingExtraError`, naming *extra* or the package's own, if *package* is older than what was tested.

    >>> check_release("lightning")
    """
    release = str(getattr(sys.modules.get(package), "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is not None and tuple(map(int, numbers.groups())) < _LOWEST[package]:
        extra = extra or _EXTRA[package]
        message = explain(
            f"This release of {package} is too old.",
            [("installed", release), ("needed", f"{'.'.join(map(str, _LOWEST[package]))} or newer"), ("extra", extra)],
            f'Run: pip install --upgrade "resumable-training[{extra}]"',
        )
        raise MissingExtraError(message, name=package)


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
