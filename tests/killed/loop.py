"""A plain training loop, and a parent that kills it with SIGKILL at random moments until it comes to its end.

Run as a program, so that every session is a fork of a process that has one thread and has imported torch once.
The "weights" are the ids that were trained, in order. They are saved with the position in one file, atomically, as a
checkpoint holds both.

    python -m tests.killed.loop '{"folder": "...", "seed": 1, "kills": 10, "workers": 0, "accumulation": 1}'

It prints one JSON object: the ids trained, the ids of the uninterrupted run, and how often it was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.reference import Loader, whole

N, EPOCHS = 101, 3


def loader_of(batch_size: int, workers: int) -> Any:
    """The run's loader."""
    return Loader(range(N), batch_size=batch_size, shuffle=True, seed=11, num_workers=workers)


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """All of it or nothing, at whatever moment the process dies."""
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(checkpoint))
    new.replace(path)


def session(path: Path, told: int, *, batch_size: int, workers: int, accumulation: int) -> None:
    """Resume, and train to the end of the run; a byte is written to *told* at many places of each step."""
    loader = loader_of(batch_size, workers)
    trained: list[int] = []
    if path.exists():
        checkpoint = json.loads(path.read_text())
        loader.load_state_dict(checkpoint["data"])
        trained = checkpoint["trained"]
    if accumulation > 1:
        loader.state.commit()
    pending: list[int] = []
    os.write(told, b".")
    for _ in range(loader.epoch, EPOCHS):
        for number, batch in enumerate(loader, start=1):
            os.write(told, b".")
            pending += batch.tolist()
            if number % accumulation == 0 or loader.state.position.offset + len(pending) == N:
                trained, pending = trained + pending, []
                os.write(told, b".")
                if accumulation > 1:
                    loader.state.commit()
            os.write(told, b".")
            save(path, {"trained": trained, "data": loader.state_dict()})
            os.write(told, b".")
    os.write(told, b"!")


def run_until(child: int, told: int, moments: int) -> bool:
    """Let *child* live for so many of its moments; whether it came to its end."""
    heard = b""
    while len(heard) < moments and not heard.endswith(b"!"):
        more = os.read(told, 1)
        if not more:
            break
        heard += more
    ended = heard.endswith(b"!")
    if not ended:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ended and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise RuntimeError(f"a session ended by itself, with status {status}")
    return ended


def run(folder: str, seed: int, kills: int, workers: int, accumulation: int) -> dict[str, Any]:
    """Kill session after session, then let one come to its end."""
    draw = random.Random(seed)
    path = Path(folder) / "checkpoint.json"
    killed, ended, places = 0, False, [0]
    while not ended:
        read, write = os.pipe()
        # a session of its own, so that its workers die with it
        child = os.fork()
        if not child:
            os.setsid()
            session(path, write, batch_size=draw.choice([3, 4, 7]), workers=workers, accumulation=accumulation)
            os._exit(0)
        os.close(write)
        draw.random()
        os.read(read, 1)
        ended = run_until(child, read, draw.randint(1, 60) if killed < kills else sys.maxsize)
        os.close(read)
        killed += not ended
        places.append(json.loads(path.read_text())["data"]["consumed_samples"] if path.exists() else 0)
    return {
        "killed": killed,
        "places": places,
        "trained": json.loads(path.read_text())["trained"],
        "expected": whole(loader_of(4, 0)._progress.feed.order, EPOCHS),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(**json.loads(sys.argv[1]))))
