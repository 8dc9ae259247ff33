"""What older Apex has as `apex.transformer.pipeline_parallel.utils`: the calculator's functions, global and rules.

    monkeypatch.setitem(sys.modules, "apex.transformer.pipeline_parallel.utils", apex_stand_in)

The module itself is the stand-in. Its global is the process's, so a test sets it back to None.
"""

# pyright: reportConstantRedefinition=false
# (the global has Apex's name)

from __future__ import annotations

from dataclasses import dataclass, field

_GLOBAL_NUM_MICROBATCHES_CALCULATOR: _Calculator | None = None


@dataclass
class _Calculator:
    """Constant where *rampup* is None; else [start, increment, samples] that lead to *end*."""

    end: int
    micro_batch_size: int
    data_parallel_size: int
    rampup: list[int] | None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        if self.rampup is not None:  # under the names that Apex gives them
            self.start_batch_size, self.batch_size_increment, self.ramup_samples = self.rampup
            self.global_batch_size = self.end
        self.update(0, self.rampup is None)

    def get(self) -> int:
        return self.size // (self.micro_batch_size * self.data_parallel_size)

    def get_current_global_batch_size(self) -> int:
        return self.size

    def update(self, consumed_samples: int, consistency_check: bool) -> None:
        self.size = self.end
        if self.rampup is not None and consumed_samples <= self.rampup[2]:
            start, increment, samples = self.rampup
            self.size = start + int(consumed_samples / (samples / ((self.end - start) // increment))) * increment
        assert not (consistency_check and self.size % (self.micro_batch_size * self.data_parallel_size))


def setup_microbatch_calculator(
    rank: int,  # Apex logs on rank 0 alone
    rampup_batch_size: list[int] | None,
    global_batch_size: int,
    micro_batch_size: int,
    data_parallel_size: int,
) -> None:
    """Build the calculator of the process, which must have none."""
    global _GLOBAL_NUM_MICROBATCHES_CALCULATOR  # noqa: PLW0603  # the process global is what this stands in for
    assert _GLOBAL_NUM_MICROBATCHES_CALCULATOR is None
    _GLOBAL_NUM_MICROBATCHES_CALCULATOR = _Calculator(
        global_batch_size, micro_batch_size, data_parallel_size, rampup_batch_size
    )


def get_micro_batch_size() -> int:
    """Samples that one rank's loader yields at once."""
    return _GLOBAL_NUM_MICROBATCHES_CALCULATOR.micro_batch_size  # type: ignore[union-attr]  # fails on None, as Apex does


def get_num_microbatches() -> int:
    """Micro batches of the step that begins now."""
    return _GLOBAL_NUM_MICROBATCHES_CALCULATOR.get()  # type: ignore[union-attr]  # as above


def get_current_global_batch_size() -> int:
    """Samples over all ranks of the step that begins now."""
    return _GLOBAL_NUM_MICROBATCHES_CALCULATOR.get_current_global_batch_size()  # type: ignore[union-attr]  # as above


def update_num_microbatches(consumed_samples: int, consistency_check: bool = True) -> None:
    """Move the calculator to the step that begins at *consumed_samples*."""
    _GLOBAL_NUM_MICROBATCHES_CALCULATOR.update(consumed_samples, consistency_check)  # type: ignore[union-attr]  # as above
