"""A plain training loop, and a parent that kills it with SIGKILL at random moments until it comes to its end.

Run as a program, so that every session is a fork of a process that has one thread and has imported torch once.
The "weights" are the ids that were trained, in order. They are saved with the position in one file, atomically, as a
checkpoint holds both.

    python -m tests.runs.killed_loop '{"folder": "...", "seed": 1, "kills": 10, "workers": 0, "accumulation": 1}'

It prints one JSON object: the ids trained, the ids of the uninterrupted run, and how often it was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.killing import END, Child, Report, exit_code, hear, kill
from tests.support.reference import Loader, whole

N, EPOCHS = 101, 3


def loader_of(batch_size: int, workers: int) -> Any:
    """The run's loader."""
    return Loader(range(N), batch_size=batch_size, shuffle=True, seed=11, num_workers=workers)


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """All of it or nothing, at whatever moment the process dies."""
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(checkpoint))
    new.replace(path)


def session(path: Path, report: Report, *, batch_size: int, workers: int, accumulation: int) -> None:
    """Resume, and train to the end of the run; it reports at many places of each step."""
    loader = loader_of(batch_size, workers)
    trained: list[int] = []
    if path.exists():
        checkpoint = json.loads(path.read_text())
        loader.load_state_dict(checkpoint["data"])
        trained = checkpoint["trained"]
    if accumulation > 1:
        loader.state.commit()
    pending: list[int] = []
    report(".")
    for _ in range(loader.epoch, EPOCHS):
        for number, batch in enumerate(loader, start=1):
            report(".")
            pending += batch.tolist()
            if number % accumulation == 0 or loader.state.position.offset + len(pending) == N:
                trained, pending = trained + pending, []
                report(".")
                if accumulation > 1:
                    loader.state.commit()
            report(".")
            save(path, {"trained": trained, "data": loader.state_dict()})
            report(".")
    report(END)


def run_until(child: Child, moments: int) -> bool:
    """Let *child* live for so many of its moments, and kill it before the next one; whether it came to its end."""
    while hear([child]) and not child.is_done:
        child.go_on()
        if len(child.reports) == moments:
            break
    if not child.is_done:
        kill([child.pid])
    child.go_on()
    code = exit_code(child.pid)
    child.close()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a session failed, with exit code {code}")
    return code == 0


def run(folder: str, seed: int, kills: int, workers: int, accumulation: int) -> dict[str, Any]:
    """Kill session after session, then let one come to its end."""
    draw = random.Random(seed)
    path = Path(folder) / "checkpoint.json"
    killed, ended, places = 0, False, [0]
    while not ended:
        batch_size = draw.choice([3, 4, 7])
        child = Child(partial(session, path, batch_size=batch_size, workers=workers, accumulation=accumulation))
        ended = run_until(child, draw.randint(1, 60) if killed < kills else sys.maxsize)
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
