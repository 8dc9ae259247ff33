"""Loops in processes of their own, and what watches signals in them."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess

FORK = multiprocessing.get_context("fork")


def exit_code_of(child: BaseProcess) -> int | None:
    """None for a child that does not end, for which no test waits for ever."""
    child.join(60)
    code = child.exitcode
    child.kill()
    return code
