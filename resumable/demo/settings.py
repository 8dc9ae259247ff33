"""The sizes of a demonstration, and the moments at which its training is killed: values that the seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from resumable.errors import ConfigurationError

__all__ = ["Kill", "Settings", "planned_kills"]

# No kill is planned after this share of the run: the process must still be training then, on a busy machine too.
_LAST_KILL: Final = 0.85
# A kill falls this long, at most, after its step was seen: into a step, between two steps or into a save.
_LONGEST_DELAY_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Settings:
    """What is trained, and how often it is killed.

    The sizes give a run of 300 steps, some ten seconds on slow cores. *samples* is deliberately not a multiple of
    *batch_size*, so every epoch ends with a short batch. Raises `ConfigurationError` for *kills* or a *seed* out of range.
    """

    seed: int = 0
    kills: int = 3
    samples: int = 1_595
    epochs: int = 3
    batch_size: int = 16
    checkpoint_every: int = 10  # optimizer steps
    num_workers: int = 2

    def __post_init__(self) -> None:
        most = len(self.killable_steps) // self.checkpoint_every
        for name, value, low, high in (("kills", self.kills, 1, most), ("seed", self.seed, 0, 2**32 - 1)):
            if not low <= value <= high:
                raise ConfigurationError(
                    f"The demo cannot run with this number for {name}.",
                    [(name, value), ("least", low), ("most", high)],
                    "Pass a number between them.",
                )

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run; the short batch at an epoch's end is one."""
        return -(-self.samples // self.batch_size) * self.epochs

    @property
    def killable_steps(self) -> range:
        """The steps that a kill can be planned for: after the first checkpoint, and not too near the end."""
        return range(self.checkpoint_every + 1, int(self.steps * _LAST_KILL) + 1)


@dataclass(frozen=True, slots=True)
class Kill:
    """A moment to kill at: *delay_s* seconds after the run was seen to have done *step* optimizer steps."""

    step: int
    delay_s: float


def planned_kills(settings: Settings, /) -> tuple[Kill, ...]:
    """The moments of all kills, in order: one in each of as many equal stretches of the run, drawn with its seed.

    >>> [kill.step for kill in planned_kills(Settings(seed=1, kills=3))]
    [21, 154, 214]
    """
    draw = random.Random(settings.seed)
    steps = settings.killable_steps
    edges = [len(steps) * number // settings.kills for number in range(settings.kills + 1)]
    return tuple(
        Kill(step=steps[low + int(draw.random() * (high - low))], delay_s=draw.random() * _LONGEST_DELAY_S)
        for low, high in pairwise(edges)
    )
