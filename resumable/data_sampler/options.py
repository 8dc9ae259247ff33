"""What the user says of a run whose data sampler counts."""

from __future__ import annotations

from dataclasses import dataclass

from resumable.protocols import BatchSchedule, MicrobatchCalculator
from resumable.saved.resolve import Policy

__all__ = ["SamplerOptions"]


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """The schedule and the calculator are None where they are found out; *reseed* is the seed of the random numbers."""

    schedule: BatchSchedule | None = None
    calculator: MicrobatchCalculator | None = None
    policy: Policy = Policy()
    reseed: int | None = None
    passes_epoch: bool = False
