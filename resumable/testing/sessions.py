"""What is run: sizes, where a session stops, and what it trained; the same for loaders, loops and datamodules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, TypeAlias

from resumable.testing.identities import Identify, Identity, identities_of

__all__ = ["Kill", "Loop", "Moment", "Recorder", "Run", "Sizes", "Step", "Stop"]

Moment: TypeAlias = Literal["after a step", "exception", "epoch end"]
"""When the state is saved that a session leaves; see `check_resume`."""

READ_AHEAD = 2
"""Batches that a session reads and throws away between the state it leaves and its death."""


class Loop(Protocol):
    """A training loop that `check_resume` can stop and resume: yours, around whatever loads your data.

    *step* is called after each optimizer step, with the micro batches that it trained, and the epoch if there is one.
    There the kit asks for the state, and ends the session by an exception or by SIGKILL.
    """

    def run(self, step: Callable[..., None], /) -> None:
        """Train to the end of the run, from its beginning or from what was loaded: `step(batch, ..., epoch=0)`."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """What your checkpoint holds; it must pickle."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> None:
        """Go on from what `state_dict` returned, in a new process."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Sizes:
    """How a session is spread; None where `make` does not take the keyword."""

    num_workers: int | None = None
    batch_size: int | None = None
    data_parallel_size: int | None = None
    accumulation: int = 1

    @property
    def ranks(self) -> int:
        """How many processes the session stands for."""
        return self.data_parallel_size or 1

    def keywords(self, rank: int) -> dict[str, int]:
        """What `make` is called with on *rank*."""
        given = {"num_workers": self.num_workers, "batch_size": self.batch_size}
        if self.data_parallel_size is not None:
            given.update(data_parallel_rank=rank, data_parallel_size=self.data_parallel_size)
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Stop:
    """A session ends at this *moment*, once *step* steps of the run are complete: an exception with *batches* further read."""

    moment: Moment
    step: int
    batches: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its epoch, and the samples of its micro batches, in the order of the global batch."""

    epoch: int
    batches: tuple[tuple[Identity, ...], ...]

    @property
    def samples(self) -> tuple[Identity, ...]:
        """The samples of all its micro batches."""
        return tuple(sample for batch in self.batches for sample in batch)


class Kill(Exception):
    """What a session dies of in mid-epoch."""

    def __init__(self) -> None:
        super().__init__("raised by check_resume in the midst of a step")


@dataclass(slots=True)
class Recorder:
    """Counts the optimizer steps of a session, notes their samples, and says when it stops.

    *leave* is given the state when it is saved; *die* ends the process.
    """

    stop: Stop | None
    max_steps: int
    identify: Identify | None
    leave: Callable[[Any], None]
    die: Callable[[], NoReturn]
    done: int = 0
    saved: bool = False
    steps: list[Step] = field(default_factory=list[Step])
    pending: list[tuple[Identity, ...]] = field(default_factory=list[tuple[Identity, ...]])
    _thrown_away: int = 0

    def read(self, batch: object) -> None:
        """A micro batch has come, and is about to be trained."""
        if self.saved:
            self._thrown_away += 1
            if self._thrown_away == READ_AHEAD:
                self.die()
        self.pending.append(identities_of(batch, self.identify))
        if self.stop is not None and self.is_due("exception") and len(self.pending) == self.stop.batches:
            raise Kill

    def step(self, epoch: int) -> None:
        """What was read has been trained."""
        if not self.saved:
            self.steps.append(Step(epoch, tuple(self.pending)))
            self.done += 1
            if self.done == self.max_steps:
                self.die()
        self.pending = []

    def is_due(self, moment: Moment) -> bool:
        """Whether the session stops now."""
        stop = self.stop
        return not self.saved and stop is not None and (stop.moment, stop.step) == (moment, self.done)

    def save(self, state: Any) -> None:
        """The state was saved: what is trained after it is lost with the process."""
        self.leave(state)
        self.saved = True


@dataclass(frozen=True, slots=True)
class Run:
    """What one rank's session gets: the object, what was saved, and the loop's own options."""

    made: Any
    state: Any
    recorder: Recorder
    epochs: int
    accumulation: int
