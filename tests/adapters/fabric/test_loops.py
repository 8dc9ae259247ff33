"""Loops with Fabric that accumulate, follow a schedule, load in workers or draw: each step is the uninterrupted run's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest
import torch

pytest.importorskip("lightning")

from lightning.fabric import Fabric

from resumable import ResumableLoader, StepSchedule
from resumable.adapters.fabric import Ranks, prepare
from tests.support.ranks import in_ranks

EPOCHS = 3


@dataclass(frozen=True)
class Loop:
    """A loop as Fabric's documentation shows it, which steps after each *accumulation* batches, or those of a schedule."""

    samples: int = 13
    batch_size: int = 2
    accumulation: int = 1
    devices: int = 1
    is_noisy: bool = False
    sets_up: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def session(self, path: str, stop: int | None = None) -> tuple[list[list[int]], list[float]]:
        """Train from the checkpoint *path* on, if it is there, until *stop* steps are done: their ids, and the weights."""
        fabric = Fabric(accelerator="cpu", devices=self.devices, strategy="ddp" if self.devices > 1 else "auto")
        fabric.launch()
        torch.manual_seed(0)
        model: Any = torch.nn.Linear(1, 1)
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer = fabric.setup(model, optimizer)
        numbers: Any = torch.arange(self.samples)
        loader: Any = ResumableLoader(
            numbers, self.batch_size, shuffle=True, seed=3, ranks=Ranks(fabric), **self.options
        )
        batches: Any = cast("Any", fabric.setup_dataloaders)(loader) if self.sets_up else prepare(fabric, loader)
        if Path(path).exists():
            fabric.load(path, {"loader": loader, "model": model, "optimizer": optimizer})
        loader.commit()
        steps: list[list[int]] = []
        for _ in range(loader.epoch, EPOCHS):
            for window in self._windows(loader, batches):
                for ids in window:
                    x = ids[:, None] / self.samples
                    output = torch.nn.functional.dropout(model(x)) if self.is_noisy else model(x)
                    fabric.backward((output - x**2).square().mean())
                optimizer.step()
                optimizer.zero_grad()
                loader.commit()
                steps.append(list(chain.from_iterable(of_all(ids) for ids in window)))
                if len(steps) == stop:
                    fabric.save(path, {"loader": loader, "model": model, "optimizer": optimizer})
                    fabric.barrier()
                    return steps, []
        return steps, [value for each in model.parameters() for value in each.detach().flatten().tolist()]

    def _windows(self, loader: Any, batches: Any) -> Iterator[list[Any]]:
        """The batches of each optimizer step; an epoch's last step may have fewer."""
        window: list[Any] = []
        for ids in batches:
            window.append(ids)
            if len(window) == (loader.num_microbatches if "schedule" in self.options else self.accumulation):
                yield window
                window = []
        if window:
            yield window

    def chain(self, path: str, *stops: int, then: Loop | None = None) -> tuple[list[list[int]], list[float]]:
        """Sessions of *stops* steps each, and one to the end, which is that of *then* if it is given."""
        steps: list[list[int]] = []
        for stop in stops:
            steps += self.session(path, stop)[0]
        rest, weights = (then or self).session(path)
        return steps + rest, weights


def of_all(ids: torch.Tensor) -> list[int]:
    """A batch of each rank, in the order of the ranks."""
    if not torch.distributed.is_initialized():
        return cast("list[int]", ids.tolist())
    everyones: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyones, ids.tolist())
    return list(chain.from_iterable(everyones))


LOOPS = {
    "accumulation": Loop(accumulation=2),
    "uneven accumulation": Loop(accumulation=3),
    "larger than an epoch": Loop(accumulation=9),
    "schedule": Loop(options={"schedule": StepSchedule(((0, 2), (10, 4), (20, 6)))}),
    "carry": Loop(options={"schedule": StepSchedule(((0, 4),)), "drop_last": "carry"}),
    "reseed": Loop(accumulation=2, is_noisy=True, options={"reseed": True}),
    "set up": Loop(accumulation=2, sets_up=True),
}


@cache
def uninterrupted(kind: str) -> tuple[list[list[int]], list[float]]:
    """The same loop without a stop."""
    return LOOPS[kind].session("nowhere")


@pytest.mark.parametrize("kind", LOOPS)
def test_each_stop_goes_on_with_the_exact_next_step(kind: str, tmp_path: Path) -> None:
    """In and at epochs, and after a second resume: each optimizer step has its samples, and the weights are bit-equal."""
    whole = uninterrupted(kind)
    for stop in range(1, len(whole[0])):
        for number, stops in enumerate([(stop,), (stop, 1)]):
            if sum(stops) < len(whole[0]):
                assert whole == LOOPS[kind].chain(str(tmp_path / f"{stop}-{number}.pt"), *stops)


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}], ids=str)
def test_workers_read_ahead_and_count_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    """What workers have loaded and the loop has not trained comes again."""
    loop = replace(LOOPS["accumulation"], options=options)
    for stop in (1, 4, 6):
        assert uninterrupted("accumulation") == loop.chain(str(tmp_path / f"{stop}.pt"), stop)


@pytest.mark.parametrize("stop", [1, 3, 4, 9])
def test_another_batch_size_and_accumulation(stop: int, tmp_path: Path) -> None:
    """Every sample of each epoch is trained once, in the order of the uninterrupted run."""
    steps, _ = LOOPS["accumulation"].chain(str(tmp_path / "a.pt"), stop, then=Loop(batch_size=3, accumulation=3))
    assert list(chain.from_iterable(uninterrupted("accumulation")[0])) == list(chain.from_iterable(steps))


def test_another_number_of_processes() -> None:
    """From one process to two and from two to one, under accumulation: the steps of two are those of one, the tail filled."""
    one, two = Loop(batch_size=4, accumulation=2), Loop(batch_size=2, accumulation=2, devices=2)
    expected = one.session("nowhere")[0]
    for stop in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            first = in_ranks(2, partial(two.session, f"{folder}/two.pt", stop))
            assert first is not None
            rest, _ = one.session(f"{folder}/two.pt")
            assert expected == cut(first[0], expected) + rest
            begun, _ = one.session(f"{folder}/one.pt", stop)
            again = in_ranks(2, partial(two.session, f"{folder}/one.pt"))
            assert again is not None
            assert expected == begun + cut(again[0], expected[stop:])


def cut(steps: list[list[int]], expected: list[list[int]]) -> list[list[int]]:
    """*steps* without what fills the tail of an epoch, on several ranks."""
    return [step[: len(whole)] for step, whole in zip(steps, expected, strict=False)]
