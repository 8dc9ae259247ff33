"""A worker that asks, behind each optimizer step, whether it may go on: so that a test kills it at the very step it means.

    torchrun OPTIONS tests/support/asking.py SCRIPT ARGUMENTS

The script runs as it is. The one who is asked listens at the Unix socket $ASKED: it gets a line of JSON that says who
asks, then an empty line for each step, and answers each of those with a byte. A signal is an answer too.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


def main(script: str, *arguments: str) -> None:
    """Ask on behalf of *script*."""
    asked = socket.socket(socket.AF_UNIX)
    asked.connect(os.environ["ASKED"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    asked.sendall(json.dumps({"rank": rank, "size": size, "pid": os.getpid(), "agent": os.getppid()}).encode() + b"\n")
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)

    def ask(*_: object) -> None:
        asked.sendall(b"\n")
        everybody: list[Any] = [asked, woken]
        ready = select.select(everybody, [], [])[0]
        if asked in ready and not asked.recv(1):
            raise ConnectionError("the test is over")

    register_optimizer_step_post_hook(ask)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
