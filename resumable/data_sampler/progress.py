"""Counting with a sampler of NeMo's shape and a trainer: the mixin's arithmetic, without the mixin.

    count at the base ──► + what the steps since then took
                            seen       the size that the calculator had when the step began
                            scheduled  where it was not seen: in closed form
                            counted    without a schedule: the sampler's own `compute_consumed_samples`

The rule is that of BioNeMo's `MegatronDataModule` (sub-packages/bionemo-llm, data/datamodule.py), with step and count
moved together: consumed samples are the sampler's count of the steps since the base, and a load writes
`init_consumed_samples` and `prev_consumed_samples`, tells the calculator, and sets `if_first_step` to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from resumable.checks import whole_count
from resumable.data_sampler.calculators import calculator_in_use, find_calculator
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins, known_order
from resumable.errors import StateError, explain, warn
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Progress
from resumable.protocols import BatchSchedule, DataSampler, MicrobatchCalculator, Trainer
from resumable.saved.resolve import compare, refuse_or_warn
from resumable.saved.snapshot import Snapshot
from resumable.steps.schedules import ConstantBatchSize, LinearRampup
from resumable.verdict import OnMismatch, Verdict

__all__ = ["ATTRIBUTES", "DataSamplerProgress", "unchanged_on_error"]

_COUNT = "compute_consumed_samples()"
ATTRIBUTES = ("init_global_step", "init_consumed_samples", "prev_consumed_samples", "if_first_step")
"""What is written into a data sampler."""


class DataSamplerProgress(Progress):
    """The progress that a sampler and a trainer's steps tell.

    *trainer* gives the trainer, or None while there is none: then the last known count stands. *calculator* gives
    whoever has to be told where the run stands, and knows what a step takes; None where nobody has. *judge* is told
    how exactly a load goes on, once a train loader shows its order.
    """

    order: Identity | None = None
    init_global_step: int = 0

    def __init__(
        self,
        sampler: DataSampler,
        trainer: Callable[[], Trainer | None],
        *,
        schedule: BatchSchedule | None = None,
        calculator: Callable[[], MicrobatchCalculator | None] = lambda: None,
        on_mismatch: OnMismatch = "error",
        judge: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        self.sampler = sampler
        self._on_mismatch: OnMismatch = on_mismatch
        self._judge = judge
        self.init_global_step = 0
        self._trainer = trainer
        self._schedule = schedule
        self._calculator = calculator
        self._base = (whole_count(getattr(sampler, "init_consumed_samples", 0), "init_consumed_samples"), 0)
        self._last = self._base
        self._seen: dict[int, int] = {}
        self._untold: int | None = None
        self._awaited: _Restore | None = None
        self._loaded: tuple[int, int | None] = (0, None)
        self._is_judged = True

    # -- the progress, as the state asks for it

    @property
    def position(self) -> Position:
        """The count of the steps so far; the last known one where there is no trainer, or no step since the load."""
        return Position(self.consumed_samples)

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed, over all ranks."""
        step = self.steps()
        if step is None:
            return self._last[0]
        if self._awaited is not None:
            self._settle_restore(self._awaited, step)
        count = self.count(step)
        self._last = (count, step)
        return count

    @property
    def global_step(self) -> int | None:
        """The trainer's step count at the position, which tells training from a trainer's restore behind the load."""
        consumed, step = self._loaded
        return step if step is not None and consumed == self.consumed_samples else self._trainer_step()

    def _trainer_step(self) -> int | None:
        trainer = self._trainer()
        return None if trainer is None else trainer.global_step

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        consumed = self.consumed_samples
        ledger = ledger_at(None, consumed)
        return Snapshot(consumed, None, None, self.order, ledger=ledger, global_step=self.global_step)

    def load(self, saved: Snapshot, /) -> Verdict:
        """Write the saved count where the mixin writes it; after an error all is as it was."""
        consumed, step = saved.consumed_samples, self.steps()
        with unchanged_on_error(self.sampler):
            self.sampler.init_consumed_samples = consumed
            self.sampler.prev_consumed_samples = consumed
            self._tell(consumed)
            self.sampler.if_first_step = 1
            self._set_base(consumed)
        self._awaited = None if step else _Restore(saved.global_step)
        self._loaded, self.order = (consumed, saved.global_step), saved.order
        self._is_judged = False
        return Verdict()

    def rebase(self) -> None:
        """Move the step baseline and the count together, so that calling this at any time changes nothing."""
        step = self.steps()
        if self._awaited is not None and self._awaited.global_step is None and step is not None:
            self._awaited, consumed = None, self._base[0]  # BioNeMo's rule: the first call behind a load sets the step
        else:
            consumed = self.consumed_samples
        seen, trained = self._seen, self.steps() or 0
        self.sampler.init_consumed_samples = consumed
        self._set_base(consumed)
        self._seen = {number: size for number, size in seen.items() if number >= trained}  # of an open window

    # -- the loader

    def place(self, sampler: SeekableSampler, /) -> None:
        """See at the first look behind a load whether *sampler*'s order is the saved one.

        Raises:
            MismatchError: if it is not and the policy is "error", or no batch of it begins at the count.
        """
        if not self._is_judged:
            order, offset = sampler.identity, self.start_of(sampler)[1]
            verdict = compare(known_order(self.order, order) or order, order, offset=offset)
            refuse_or_warn(verdict, self._on_mismatch)
            check_begins(sampler, offset)
            self._judge(verdict)
        self._is_judged, self.order = True, sampler.identity

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset, if every epoch is as long as *sampler*'s."""
        return divmod(self.consumed_samples, len(sampler) * sampler.samples_per_batch)

    # -- the steps

    def steps(self) -> int | None:
        """Steps that are trained; None while nobody counts any."""
        return self._trainer_step()

    def step_starts(self, step: int) -> None:
        """Note what the step that begins when *step* others are trained takes, if the sizes vary and it can be told."""
        calculator = self._calculator_of_sizes()
        if calculator is None:
            return
        self._awaited = None if step == 0 else self._awaited  # a trainer that trains its first step is not restored
        consumed = self.consumed_samples
        trained = self.steps() or 0
        self._base = (consumed, trained)
        self._seen = {seen: size for seen, size in self._seen.items() if seen >= trained}
        self._seen[step] = self._seen.get(step, 0) + calculator.current_global_batch_size

    def set_calculator(self, step: int) -> None:
        """Let the step that begins when *step* others are trained have the size of its place, whatever has moved it.

        NeMo's sampler lets the calculator lag by the first batch in a fresh session and not in a resumed one, and moves
        it behind validation steps: a resumed run would divide the same samples into other batches.
        """
        calculator = self._calculator_of_sizes()
        if calculator is not None:
            calculator.update(self.count(step))

    def _calculator_of_sizes(self) -> MicrobatchCalculator | None:
        calculator = self._calculator() if self.schedule is not None else None
        return calculator if calculator is not None and calculator.is_initialized else None

    @property
    def schedule(self) -> BatchSchedule | None:
        """The batch sizes to come, where they vary: as given, by the calculator, by the sampler's `rampup_batch_size`."""
        if self._schedule is not None:
            return self._schedule
        calculator = calculator_in_use() if self._calculator is find_calculator else self._calculator()
        varying: BatchSchedule | None = getattr(calculator, "schedule", None)
        ramp: Any = getattr(self.sampler, "rampup_batch_size", None)
        if varying is not None or not ramp:
            return varying
        return LinearRampup.from_megatron(ramp, getattr(self.sampler, "global_batch_size"))  # noqa: B009

    def tell_calculator(self) -> None:
        """Tell the calculator where a loaded run stands, if it could not hear it when that was loaded."""
        if self._untold is not None:
            self._tell(self._untold)

    def _tell(self, consumed: int) -> None:
        calculator = self._calculator()
        if calculator is not None and calculator.is_initialized:
            calculator.update(consumed)
        self._untold = None if calculator is None or calculator.is_initialized else consumed

    def count(self, step: int) -> int:
        """Consumed samples when *step* steps are trained."""
        consumed, at = self._base
        if step <= at:
            return consumed
        schedule = self.schedule
        if schedule is None:
            return self._own_count(step - at)
        for seen, size in self._seen.items():
            if seen >= step:
                break
            consumed, at = schedule.samples_after(seen - at, consumed) + size, seen + 1
        return schedule.samples_after(step - at, consumed)

    def _own_count(self, steps: int) -> int:
        """The sampler's count; NeMo's gives 0 where it does not know, without a trainer of NeMo's."""
        count = whole_count(self.sampler.compute_consumed_samples(steps), _COUNT)
        if count == 0:
            size = getattr(self.sampler, "global_batch_size", None)
            if isinstance(size, int) and size > 0:
                return ConstantBatchSize(size).samples_after(steps, self._base[0])
            if self._last[0]:
                warn(f"{_COUNT} gave 0 after {steps} steps; the last known count, {self._last[0]}, is kept.")
            return self._last[0]
        known, at = self._last
        if count < known and steps + self._base[1] >= at:
            raise StateError(
                explain(
                    f"{_COUNT} went backwards.",
                    [("before", known), ("now", count), ("steps since the last rebase", steps)],
                    "Let it count from init_consumed_samples on. The last known position stands.",
                )
            )
        return count

    def _settle_restore(self, awaited: _Restore, step: int) -> None:
        """A trainer that leaps to the step of the saved state, or beyond, was restored: those steps are no training."""
        if step == 0:
            return
        if awaited.global_step is not None and 0 < awaited.global_step <= step:
            self._set_base(self._base[0], awaited.global_step)
        self._awaited = None

    def _set_base(self, consumed: int, step: int | None = None) -> None:
        now = self.steps() or 0 if step is None else step
        self.init_global_step = (self._trainer_step() or 0) if step is None else step
        self.sampler.init_global_step = self.init_global_step
        self._base = self._last = (consumed, now)
        self._seen = {}


@dataclass(frozen=True, slots=True)
class _Restore:
    """A load at step 0, which the trainer's own restore to *global_step* may follow; None if nobody saved that."""

    global_step: int | None


@contextmanager
def unchanged_on_error(sampler: object) -> Generator[None, None, None]:
    """Give *sampler* back what a load has written, if an error comes out of the block."""
    before = {name: getattr(sampler, name) for name in ATTRIBUTES if hasattr(sampler, name)}
    try:
        yield
    except BaseException:
        for name, value in before.items():
            setattr(sampler, name, value)
        raise
