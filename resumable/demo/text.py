"""Real text that every machine has: the source of the installed Python's standard library, cut into windows of bytes."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from resumable.errors import ConfigurationError

__all__ = ["read_windows"]


def read_windows(samples: int, window: int, /, folder: Path | None = None) -> bytes:
    """*samples* windows of *window* bytes each, end to end: the modules of *folder*, sorted by name, until there is enough.

    *folder* is the standard library's by default. Raises `ConfigurationError` if it holds too little.

    >>> len(read_windows(3, 16))
    48
    """
    source = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    wanted = samples * window
    text = b""
    for path in sorted(source.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= wanted:
            return text[:wanted]
    raise ConfigurationError(
        "There is too little Python source to train on.",
        [("folder", str(source)), ("bytes found", len(text)), ("bytes wanted", wanted)],
        "Run the demo with a Python whose standard library is installed as source files.",
    )
