"""Sessions of a loop with accelerate, saved after or before a batch, and gone on with.

Loop(accumulation=2).session(folder, stop=3)     three batches, then save_state
Loop(accumulation=2).session(folder, loads=True)    load_state, and the rest
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.data import TensorDataset

from resumable import ResumableLoader
from resumable.adapters.accelerate import Ranks, prepare

EPOCHS = 3


class Failed(Exception):
    """What a batch fails of."""


@dataclass
class Trained:
    """What a session has trained: the ids of each optimizer step, over all ranks, and the weights at its end."""

    steps: list[list[int]] = field(default_factory=list[list[int]])
    weights: list[float] = field(default_factory=list[float])
    is_whole: bool = False


@dataclass(frozen=True)
class Loop:
    """A training loop as accelerate's documentation shows it.

    *saves*: "after" a batch was trained, "before" it, or where it has failed, before the "backward" pass or after the "step".
    *accumulates*: it trains within `accelerator.accumulate`.
    """

    samples: int = 11
    batch_size: int = 2
    accumulation: int = 1
    saves: str = "after"
    accumulates: bool = True
    commits: bool = False
    syncs_at_end: bool = True
    is_noisy: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def session(self, folder: str = "", *, stop: int | None = None, loads: bool = False) -> Trained:
        """Train until *stop* batches have come, or to the end."""
        accelerator = new_accelerator(self.accumulation, sync_with_dataloader=self.syncs_at_end)
        torch.manual_seed(0)
        model, dropout = torch.nn.Linear(1, 1), torch.nn.Dropout(0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        dataset = TensorDataset(torch.arange(self.samples), torch.linspace(-1, 1, self.samples))
        loader: Any = prepare(
            accelerator,
            ResumableLoader(dataset, self.batch_size, shuffle=True, seed=3, ranks=Ranks(accelerator), **self.options),
        )
        prepared: Any = accelerator.prepare(model, optimizer, loader)
        model, optimizer = prepared[:2]
        assert prepared[2] is loader
        if loads:
            accelerator.load_state(folder)
        trained = Trained()
        try:
            self._train(accelerator, (model, dropout, optimizer, loader), folder, stop, trained)
        except Failed:
            accelerator.save_state(folder)
        return trained

    def _train(self, accelerator: Any, prepared: Any, folder: str, stop: int | None, trained: Trained) -> Trained:
        """The loop itself."""
        model, dropout, optimizer, loader = prepared
        window, batches = list[list[int]](), 0
        for _ in range(loader.epoch, EPOCHS):
            for ids, x in loader:
                if self.saves == "before" and batches == stop:
                    accelerator.save_state(folder)
                    return trained
                with accelerator.accumulate(model) if self.accumulates else nullcontext():
                    if self.saves == "backward" and batches == stop:
                        raise Failed
                    output = model(dropout(x[:, None]) if self.is_noisy else x[:, None])
                    accelerator.backward((output - x[:, None] ** 2).square().mean())
                    optimizer.step()
                    optimizer.zero_grad()
                    if self.saves == "step" and batches == stop:
                        window.append(of_all(ids))
                        trained.steps += [list(chain.from_iterable(window))] if accelerator.sync_gradients else []
                        raise Failed
                if self.commits:
                    loader.commit()
                window.append(of_all(ids))
                if accelerator.sync_gradients:
                    trained.steps.append(list(chain.from_iterable(window)))
                    window = []
                batches += 1
                if self.saves == "after" and batches == stop:
                    accelerator.save_state(folder)
                    return trained
        trained.weights = [value for each in model.parameters() for value in each.detach().flatten().tolist()]
        trained.is_whole = True
        return trained

    def chain(self, stops: Sequence[int], *others: Loop) -> Trained:
        """Sessions that stop after *stops* batches, each gone on with by the next loop of *others*, and the last to its end."""
        loops = [self, *others, *[(others or (self,))[-1]] * len(stops)]
        whole = Trained()
        with tempfile.TemporaryDirectory() as folder:
            for number, stop in enumerate([*stops, None]):
                trained = loops[number].session(folder, stop=stop, loads=number > 0)
                whole = replace(trained, steps=whole.steps + trained.steps)
                if trained.is_whole:
                    break
        return whole


def new_accelerator(accumulation: int = 1, **options: Any) -> Any:
    """An accelerator as a new process has it."""
    GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]  # as accelerate's own tests do
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    plugin = GradientAccumulationPlugin(num_steps=accumulation, **options)
    return Accelerator(cpu=True, gradient_accumulation_plugin=plugin)


def of_all(ids: torch.Tensor) -> list[int]:
    """A batch of each rank, in the order of the ranks."""
    if not torch.distributed.is_initialized():
        return cast("list[int]", ids.tolist())
    everyones: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyones, ids.tolist())
    return list(chain.from_iterable(everyones))
