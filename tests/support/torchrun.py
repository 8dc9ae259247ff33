"""torchrun's agents and workers as real processes, which ask behind each optimizer step whether they may go on.

    with Torchrun(script, checkpoint) as run:
        run.start("--nproc-per-node=2", "--max-restarts=1")
        for worker in run.steps():                 until every agent has ended
            worker.die() or worker.go_on()         or none of them: it waits for a signal

Whoever started a process and dies leaves none behind: what carries the socket's path in its environment is killed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
_PATIENCE = 60
"""Seconds without a step, a line or an end, until the test fails."""


@dataclass
class Worker:
    """One process of one round of the rendezvous, at its present optimizer step, counted from 1 in this process."""

    rank: int
    size: int
    pid: int
    agent: int
    connection: socket.socket
    step: int = 0

    def go_on(self) -> None:
        """Let it do the next step."""
        with suppress(OSError):  # it may have died with another one
            self.connection.send(b".")

    def die(self) -> None:
        """By SIGKILL, alone."""
        os.kill(self.pid, signal.SIGKILL)

    def die_with_agent(self) -> None:
        """By SIGKILL, its agent first, as a machine goes down."""
        os.kill(self.agent, signal.SIGKILL)
        self.die()


class Torchrun:
    """So many agents that run *script* with *arguments*; what they print is in `printed`, agent by agent."""

    def __init__(self, script: Path, *arguments: object) -> None:
        self.command = [str(Path(__file__).with_name("asking.py")), str(script), *map(str, arguments)]
        self.agents: list[subprocess.Popen[bytes]] = []
        self.printed: list[str] = []
        self.sizes: list[int] = []
        """How many workers there were, in the order of their first steps, as far as they changed."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name, "asked"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen()
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listener, selectors.EVENT_READ, self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        while left := processes_with(f"ASKED={self.address}"):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for agent in self.agents:
                agent.wait()
        for key in list(self._ready.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # a socket or a pipe
        self._ready.close()
        self._folder.cleanup()

    def start(self, *options: str) -> None:
        """One more agent."""
        environment = {
            **os.environ,
            "ASKED": self.address,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # the script says why
        }
        command = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=0.1", *options, *self.command]
        agent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert agent.stdout is not None
        os.set_blocking(agent.stdout.fileno(), False)
        self._ready.register(agent.stdout, selectors.EVENT_READ, (self._read, len(self.agents)))
        self.agents.append(agent)
        self.printed.append("")

    def steps(self) -> Iterator[Worker]:
        """The worker that asks, again and again, until nobody holds an agent's output open any more."""
        while len(self._ready.get_map()) > 1:
            ready = self._ready.select(_PATIENCE)
            assert ready, "nothing happens:\n" + "\n".join(self.printed)
            for key, _ in ready:
                match key.data:
                    case Worker() as worker:
                        yield from self._hear(worker)
                    case (_, int(number)):
                        self._read(key.fileobj, number)
                    case _:
                        self._accept()

    @property
    def codes(self) -> list[int]:
        """The exit codes of the agents, all of which have ended."""
        return [agent.wait(_PATIENCE) for agent in self.agents]

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        said: dict[str, Any] = json.loads(connection.makefile("rb", buffering=0).readline())
        self._ready.register(connection, selectors.EVENT_READ, Worker(**said, connection=connection))

    def _hear(self, worker: Worker) -> Iterator[Worker]:
        try:
            heard = worker.connection.recv(1)
        except OSError:
            heard = b""
        if not heard:
            self._ready.unregister(worker.connection)
            worker.connection.close()
            return
        worker.step += 1
        if self.sizes[-1:] != [worker.size]:
            self.sizes.append(worker.size)
        yield worker

    def _read(self, pipe: Any, number: int) -> None:
        text = pipe.read()
        if text:
            self.printed[number] += text.decode()
        elif text is not None:
            self._ready.unregister(pipe)
            pipe.close()


def processes_with(variable: str) -> list[int]:
    """The processes that were started with *variable* in their environment, this one aside."""
    found: list[int] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return [pid for pid in found if pid != os.getpid()]
