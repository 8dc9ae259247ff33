"""Streams as users write them: what each saves of itself, and what it does with what it has loaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.support.lightning_runs import Scenario


def streaming(cls: Callable[[int], Any], num_workers: int = 0, *, loader: Any = DataLoader, **options: Any) -> Scenario:
    """A scenario over a stream."""
    return Scenario(
        num_workers=num_workers, shuffle=False, loaders=lambda s: s.loader(cls(s.samples), cls=loader), **options
    )


def of_worker(order: Sequence[int]) -> Sequence[int]:
    """The part of *order* that this worker yields."""
    worker = get_worker_info()
    return order if worker is None else order[worker.id :: worker.num_workers]


class Stream(IterableDataset[int]):
    """The numbers below *samples*, which saves nothing."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[int]:
        return iter(of_worker(range(self.samples)))


class KeepsItsStart(Stream):
    """What was loaded is where each later pass begins, until another state is loaded."""

    start = at = 0
    epoch = -1

    def order(self) -> Sequence[int]:
        """The samples of the pass."""
        return of_worker(range(self.samples))

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        for place in range(self.start, len(order)):
            self.at = place + 1
            yield order[place]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = self.at = state["at"]


class SizedKeepsItsStart(KeepsItsStart):
    """The same, with a length."""

    def __len__(self) -> int:
        return self.samples


class FollowsItsEpoch(KeepsItsStart):
    """The same, shuffled by the epoch that it is told, which it saves too."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self.epoch = epoch

    def order(self) -> Sequence[int]:
        return of_worker(random.Random(self.epoch).sample(range(self.samples), self.samples))

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "epochs": [self.epoch]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        (self.epoch,) = state["epochs"]


class EndsItsRestoreAtItsEnd(Stream):
    """What was loaded counts until a pass has been asked past its end."""

    given = 0
    restored = False

    def __iter__(self) -> Iterator[int]:
        if not self.restored:
            self.given = 0
        order = of_worker(range(self.samples))
        while self.given < len(order):
            self.given += 1
            yield order[self.given - 1]
        self.restored = False

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given, self.restored = state["given"], True


class SizedEndsItsRestoreAtItsEnd(EndsItsRestoreAtItsEnd):
    """The same, with a length, so that a trainer does not ask past its end."""

    def __len__(self) -> int:
        return self.samples


class GivesOneDict(EndsItsRestoreAtItsEnd):
    """It gives the same dict each time, and goes on writing into it."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        self.state.update(super().state_dict())
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state
        super().load_state_dict(state)


class SavesTensors(KeepsItsStart):
    """Its state holds a tensor, as that of a generator is one, in a tuple."""

    def state_dict(self) -> dict[str, Any]:
        return {"kept": (torch.full((3,), self.at),), "at": self.at}


class Endless(Stream):
    """It goes on where it was, in each pass."""

    at = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.at += 1
            yield self.at - 1

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Buffered(KeepsItsStart):
    """It shuffles in a buffer that its state leaves out."""

    def __iter__(self) -> Iterator[int]:
        draw, buffer = random.Random(0), list[int]()
        for sample in super().__iter__():
            buffer.append(sample)
            if len(buffer) > 5:
                yield buffer.pop(draw.randrange(len(buffer)))
        yield from buffer


class CountedByItsCaller(Stream):
    """Its state cannot be asked for without arguments."""

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:  # mosaicml-streaming's
        raise AssertionError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError


class SavesNothingYet(Stream):
    """Its methods are there, and not written."""

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


class ToldItsEpoch(Stream):
    """It saves nothing, shuffles by the epoch that it is told, and counts its passes."""

    epoch = -1

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.passes = list[int]()

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.passes.append(self.epoch)
        return iter(of_worker(random.Random(self.epoch).sample(range(self.samples), self.samples)))


class RemembersItsPasses(Stream):
    """It saves nothing, and each pass has the order that follows from the one before."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.draw = random.Random(0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw.sample(range(self.samples), self.samples))


class DrawsFromAPlace(Buffered):
    """It shuffles in a buffer that its state leaves out, by a generator that leads from pass to pass."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.draw = random.Random(0)

    def __iter__(self) -> Iterator[int]:
        start, self.start, buffer = self.start, 0, list[int]()
        for sample in range(start, self.samples):
            self.at = sample + 1
            buffer.append(sample)
            if len(buffer) > 5:
                yield buffer.pop(self.draw.randrange(len(buffer)))
        self.draw.shuffle(buffer)
        yield from buffer


class DrawsAndSaves(DrawsFromAPlace):
    """The same, with that generator in its state."""

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "draw": self.draw.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.draw.setstate(state["draw"])
