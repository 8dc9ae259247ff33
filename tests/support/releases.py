"""What releases of a framework lack, so that their tests can say so."""

from __future__ import annotations

import re

import lightning
import pytest

__all__ = ["needs_lightning"]

_RELEASE = tuple(map(int, re.findall(r"\d+", lightning.__version__)[:3]))


def needs_lightning(*release: int, reason: str) -> pytest.MarkDecorator:
    """Skip a test where Lightning is older than *release*, since *reason*."""
    return pytest.mark.skipif(release > _RELEASE, reason=f"Lightning before {'.'.join(map(str, release))}: {reason}")
