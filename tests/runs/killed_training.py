"""A training with dropout and augmentation, killed by SIGKILL at random moments until it comes to its end, and its weights.

A plain loop, or a fit of Lightning's. Each session has other workers. Weights, optimizer and position are saved in one file,
atomically. Run as a program, as `killed_loop` is:

    python -m tests.runs.killed_training '{"folder": "...", "seed": 1, "kills": 10, "kind": "loop", "accumulation": 1}'

It prints one JSON object: whether the weights are those of the uninterrupted run, to the bit, and how often it was killed.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from resumable import ResumableLoader
from tests.runs.killed_loop import run_until
from tests.support.killing import END, Child, Report
from tests.support.random_fits import Data, Net, fit, weights
from tests.support.random_samples import Augmented, disturb, drawn_now

SAMPLES, EPOCHS = 22, 2


def keep(path: Path, save: Callable[[Path], object]) -> None:
    """All of it or nothing, at whatever moment the process dies."""
    new = path.with_suffix(f".{os.getpid()}")
    save(new)
    new.replace(path)


def loop(path: Path, report: Report, *, workers: int, accumulation: int) -> list[float]:
    """Resume, and train to the end of the run; the weights."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    loader = ResumableLoader(
        Augmented(SAMPLES), batch_size=2, shuffle=True, seed=11, num_workers=workers, reseed=True
    )  # fmt: skip
    parts: dict[str, Any] = {"net": net, "optimizer": optimizer, "loader": loader}
    if path.exists():
        saved = torch.load(path)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    loader.state.commit()
    disturb()
    report(".")
    for _ in range(loader.epoch, EPOCHS):
        for number, batch in enumerate(loader, start=loader.batches_done + 1):
            report(".")
            (net.net(batch.float()).mean() * sum(drawn_now())).backward()
            disturb()
            report(".")
            if number % accumulation and number < SAMPLES // 2:
                continue
            optimizer.step()
            optimizer.zero_grad()
            report(".")
            loader.commit()
            report(".")
            keep(path, partial(torch.save, {name: part.state_dict() for name, part in parts.items()}))
            report(".")
    return weights(net)


class Reports(L.Callback):
    """Reports at many places of each step, and saves."""

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
        self.report = report

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.report(".")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.report(".")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.report(".")
        keep(self.path, trainer.save_checkpoint)
        self.report(".")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.report(".")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        keep(self.path, trainer.save_checkpoint)
        self.report(".")


def of_lightning(path: Path, report: Report, *, workers: int, accumulation: int) -> list[float]:
    """The same by Lightning, with validations in between."""
    data = Data(num_workers=workers)
    net = fit(
        data,
        resume=path if path.exists() else None,
        callbacks=[Reports(path, report)],
        accumulate_grad_batches=accumulation,
        max_epochs=EPOCHS,
    )
    return weights(net)


SESSIONS = {"loop": loop, "lightning": of_lightning}


def session(path: Path, report: Report, *, kind: str, workers: int, accumulation: int) -> None:
    """One session; at the end of the run its weights are written down."""
    trained = SESSIONS[kind](path, report, workers=workers, accumulation=accumulation)
    keep(path.with_name("weights.json"), lambda new: new.write_text(json.dumps(trained)))
    report(END)


def run(folder: str, seed: int, kills: int, kind: str, accumulation: int) -> dict[str, Any]:
    """Kill session after session, then let one come to its end, beside a run that nobody kills."""
    draw, ends = random.Random(seed), list[str]()
    killed, moments = 0, {"loop": 30, "lightning": 30}[kind]
    for name, most in (("killed", kills), ("whole", 0)):
        path = Path(folder, name, "checkpoint")
        path.parent.mkdir()
        ended, times = False, 0
        while not ended:
            work = partial(session, path, kind=kind, workers=draw.choice([0, 0, 1, 2]), accumulation=accumulation)
            ended = run_until(Child(work), draw.randint(1, moments) if times < most else sys.maxsize)
            times += not ended
        killed += times
        ends.append(path.with_name("weights.json").read_text())
    return {"killed": killed, "is_equal": ends[0] == ends[1]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(**json.loads(sys.argv[1]))))
