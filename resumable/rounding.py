"""Global batches that fall into whole rounds: which sizes do, and sizes that are rounded down until they do.

a round    micro_batch_size samples on each of data_parallel_size ranks
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resumable.errors import ConfigurationError, explain
from resumable.stages import Stage, Staged

__all__ = ["RoundedDown", "not_divisible"]


@dataclass(frozen=True, slots=True)
class RoundedDown(Staged):
    """The sizes of *schedule*, each rounded down to a multiple of *divisor*; where that is 0 it is refused when asked.

    Stages stay where *schedule* has them in consumed samples, and what a rounded step takes is what it consumes, as
    with megatron-core 0.16.1's `decrease_batch_size_if_needed` (num_microbatches_calculator.py), whatever the schedule.

    >>> from resumable.schedules import StepSchedule
    >>> RoundedDown(StepSchedule(((0, 10), (30, 15))), divisor=4).samples_after(5)
    44
    """

    schedule: Staged
    divisor: int

    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        """The schedule's stages, with the sizes that run."""
        for size, stop in self.schedule.stages_from(consumed_samples):
            if size < self.divisor:
                raise ConfigurationError(
                    explain(
                        "A global batch that is rounded down to whole micro batches is empty.",
                        [("global batch size", size), ("micro_batch_size * data_parallel_size", self.divisor)],
                        "Use a smaller micro batch or fewer ranks, or larger global batches.",
                    )
                )
            yield Stage(size - size % self.divisor, stop)


def not_divisible(
    size: int, consumed_samples: int, micro_batch_size: int, data_parallel_size: int, /
) -> ConfigurationError:
    """The error for a global batch of *size* samples that leaves a part of a round over, with the sizes that would do.

    >>> print(not_divisible(20, 0, 4, 2))
    A global batch does not fall into whole micro batches on each rank.
      global batch size:     20
      from consumed_samples: 0
      micro_batch_size:      4
      data_parallel_size:    2
      sizes that would do:   '16 or 24'
    Pass a schedule with such a size, or another batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.
    """
    per_round = micro_batch_size * data_parallel_size
    below = size - size % per_round
    rows: list[tuple[str, object]] = [
        ("global batch size", size),
        ("from consumed_samples", consumed_samples),
        ("micro_batch_size", micro_batch_size),
        ("data_parallel_size", data_parallel_size),
        ("sizes that would do", f"{below} or {below + per_round}" if below else f"{per_round}"),
    ]
    advice = "Pass a schedule with such a size, or another batch_size or data_parallel_size"
    return ConfigurationError(
        explain(
            "A global batch does not fall into whole micro batches on each rank.",
            rows,
            f"{advice}, or decrease_batch_size_if_needed=True." if below else f"{advice}.",
        )
    )
