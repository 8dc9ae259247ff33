"""Progress of a run whose data sampler, of NeMo's shape, counts the samples: the mixin's arithmetic without the mixin.

    count at the base ──► + what the steps since then took
                            seen       the size that the calculator had when the step began
                            scheduled  in closed form, where the step was not seen
                            counted    without a schedule: the sampler's own `compute_consumed_samples`

The rule is that of BioNeMo's `MegatronDataModule` (sub-packages/bionemo-llm, data/datamodule.py), with step and count
moved together: consumed samples are the sampler's count of the steps since the base, and a load writes
`init_consumed_samples` and `prev_consumed_samples`, tells the calculator, and sets `if_first_step` to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from resumable.checks import as_int, whole_count
from resumable.data_sampler.calculators import calculator_in_use, find_calculator
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins, known_order
from resumable.errors import StateError, warn
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Progress
from resumable.protocols import BatchSchedule, DataSampler, MicrobatchCalculator, Trainer
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import compare, refuse_or_warn, regrouped
from resumable.saved.schedule_format import LedgerSchedule, UserSchedule, ledger_schedule
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import UNBOUNDED
from resumable.steps.schedules import ConstantBatchSize, LinearRampup
from resumable.verdict import OnMismatch, Verdict

__all__ = ["ATTRIBUTES", "DataSamplerProgress", "SamplerOptions", "unchanged_on_error"]

_COUNT = "compute_consumed_samples()"
ATTRIBUTES = ("init_global_step", "init_consumed_samples", "prev_consumed_samples", "if_first_step")
"""What is written into a data sampler."""


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """What the user says of a data sampler's steps: each is None where it is found out."""

    schedule: BatchSchedule | None = None
    calculator: MicrobatchCalculator | None = None
    on_mismatch: OnMismatch = "error"

    def find_calculator(self) -> MicrobatchCalculator | None:
        """The given calculator; without one that of whichever framework is installed, found at the first call."""
        return find_calculator() if self.calculator is None else self.calculator


class DataSamplerProgress(Progress):
    """The samples that a data sampler counts over the trained steps.

    *trainer* returns the trainer, or None while there is none: the last known count stands then. *steps* returns how
    many steps are trained; without it, these are the trainer's. The calculator of *options* is told where the run is and
    knows what a step takes. *judge* gets the verdict on a load, once a
    train loader shows its order.
    """

    order: Identity | None = None
    knows_epochs: bool = False
    accumulation: int = 1

    def __init__(
        self,
        sampler: DataSampler,
        trainer: Callable[[], Trainer | None],
        options: SamplerOptions,
        *,
        steps: Callable[[], int | None] | None = None,
        judge: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        self.sampler = sampler
        self._trainer = trainer
        self._init_global_step = 0
        self._steps = self._trainer_step if steps is None else steps
        self._options = options
        self._judge = judge
        self._saved = Snapshot()
        self._base = (whole_count(getattr(sampler, "init_consumed_samples", 0), "init_consumed_samples"), 0)
        self._start = self._last = self._base
        self._stretch: Stretch | None = None
        self._loader: SeekableSampler | None = None
        self._seen: dict[int, int] = {}
        self._untold: int | None = None
        self._awaited: _Restore | None = None
        self._is_judged = True

    # -- the progress, as the state asks for it

    @property
    def position(self) -> Position:
        """The count of the steps so far; the last known one where there is no trainer, or no step since the load."""
        return Position(self.consumed_samples)

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed, over all ranks."""
        return self._counted(self._steps())

    def _counted(self, step: int | None) -> int:
        if step is None:
            return self._last[0]
        if self._awaited is not None:
            self._settle_restore(self._awaited, step)
        if step != self._last[1]:
            self._last = (self.count(step), step)
        return self._last[0]

    @property
    @override
    def init_global_step(self) -> int:
        return self._init_global_step

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        at, saved = self.position, self._saved
        epoch, offset = (at.epoch, at.offset) if self.knows_epochs else (None, None)
        # the saved step count, where nothing was trained since, shows a trainer that is restored after the load
        at_saved = saved.global_step is not None and saved.consumed_samples == at.consumed_samples
        step = saved.global_step if at_saved else self._trainer_step()
        ledger = ledger_at(self.stretch, at.consumed_samples)
        return Snapshot(at.consumed_samples, epoch, offset, self.order, ledger=ledger, global_step=step)

    def _trainer_step(self) -> int | None:
        trainer = self._trainer()
        return None if trainer is None else trainer.global_step

    @property
    def stretch(self) -> Stretch | None:
        """What the steps take since the load, once one is trained; None if the size of a step is unknown.

        Without a loader whose epochs are known, the steps run on across the ends of epochs, as the count does.
        """
        if self._stretch is None and self._last[0] > self._start[0]:
            known, (sample, step) = self._configuration(self._saved, self._loader), self._start
            self._stretch = known and replace(
                known, step=step, sample=sample, epoch=0, offset=0, length=UNBOUNDED, drop_last="carry", limit=None
            )
        return self._stretch

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*; what a train loader shows is judged later. After an error all is as it was."""
        differences = regrouped(saved, self._configuration(saved))
        self._take(saved)
        return Verdict("regrouped", differences) if differences else Verdict()

    def _take(self, saved: Snapshot) -> None:
        """Write the saved count where the mixin writes it."""
        consumed, step = saved.consumed_samples, self._steps()
        with unchanged_on_error(self.sampler):
            self.sampler.init_consumed_samples = consumed
            self.sampler.prev_consumed_samples = consumed
            self._tell(consumed)
            self.sampler.if_first_step = 1
            self._set_base(consumed, step)
        self._awaited = None if step else _Restore(saved.global_step)
        self._saved, self.order = saved, saved.order
        self._start, self._stretch, self._is_judged = self._base, None, False

    def rebase(self) -> None:
        """Move the first step and the count together, so that calling this at any time changes nothing.

        A calculator that was not yet initialized at the load is told now.
        """
        step = self._steps()
        if self._awaited is not None and self._awaited.global_step is None and step is not None:
            self._awaited, consumed = None, self._base[0]  # BioNeMo's rule: the first call after a load sets the step
            self._start = (consumed, step)
        else:
            consumed = self._counted(step)
        if self._untold is not None:
            self._tell(self._untold)
        self.sampler.init_consumed_samples = consumed
        seen = self._seen
        self._set_base(consumed, step)
        self._seen = {number: size for number, size in seen.items() if number >= self._base[1]}  # of an open window

    # -- the loader

    def place(self, sampler: SeekableSampler, /) -> None:
        """Compare *sampler*'s order with the saved one, at the first loader after a load.

        Raises:
            MismatchError: if it differs and the policy is "error", or no batch of it begins at the count.
        """
        if not self._is_judged:
            offset = self.start_of(sampler)[1]
            verdict = self._compared(sampler, offset, self._configuration(self._saved, sampler))
            check_begins(sampler, offset)
            self._judge(verdict)
        self._is_judged, self.order, self._loader = True, sampler.identity, sampler

    def _compared(self, sampler: SeekableSampler, offset: int, current: Stretch | None) -> Verdict:
        order, saved = sampler.identity, known_order(self._saved.order, sampler.identity)
        verdict = compare(saved or order, order, offset=offset, regrouped=regrouped(self._saved, current))
        refuse_or_warn(verdict, self._options.on_mismatch)
        return verdict

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset, if every epoch is as long as *sampler*'s."""
        return divmod(self.consumed_samples, len(sampler) * sampler.samples_per_batch)

    # -- the steps

    def step_starts(self, step: int) -> None:
        """Note what the step takes that follows *step* trained ones, if the sizes vary and the calculator knows."""
        calculator = self._calculator_of_sizes()
        if calculator is None:
            return
        self._awaited = None if step == 0 else self._awaited  # a trainer that trains its first step is not restored
        trained = self._steps()
        self._base = (self._counted(trained), trained or 0)
        self._seen = {seen: size for seen, size in self._seen.items() if seen >= self._base[1]}
        self._seen[step] = self._seen.get(step, 0) + calculator.current_global_batch_size

    def set_calculator(self, step: int) -> None:
        """Give the step that follows *step* trained ones the size of its position, whatever has moved the calculator.

        NeMo's sampler lets the calculator lag by the first batch in a fresh session and not in a resumed one, and moves
        it after validation steps: a resumed run would divide the same samples into other batches.
        """
        calculator = self._calculator_of_sizes()
        if calculator is not None:
            calculator.update(self.count(step))

    def _calculator_of_sizes(self) -> MicrobatchCalculator | None:
        calculator = self._options.find_calculator() if self.schedule is not None else None
        return calculator if calculator is not None and calculator.is_initialized else None

    @property
    def schedule(self) -> BatchSchedule | None:
        """The batch sizes to come, where they vary: as given, by the calculator, by the sampler's `rampup_batch_size`."""
        if self._options.schedule is not None:
            return self._options.schedule
        varying: BatchSchedule | None = getattr(self._calculator_in_use(), "schedule", None)
        ramp: Any = getattr(self.sampler, "rampup_batch_size", None)
        if varying is not None or not ramp:
            return varying
        return LinearRampup.from_megatron(ramp, getattr(self.sampler, "global_batch_size"))  # noqa: B009

    def _calculator_in_use(self) -> MicrobatchCalculator | None:
        return calculator_in_use() if self._options.calculator is None else self._options.calculator

    def _tell(self, consumed: int) -> None:
        calculator = self._options.find_calculator()
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
        """The sampler's count; NeMo's returns 0 where it does not know, without a trainer of NeMo's."""
        count = whole_count(self.sampler.compute_consumed_samples(steps), _COUNT)
        if count == 0:
            size = _size(self.sampler, "global_batch_size")
            if size:
                return self._base[0] + steps * size
            if self._last[0]:
                warn(f"{_COUNT} gave 0 after {steps} steps; the last known count, {self._last[0]}, is kept.")
            return self._last[0]
        known, at = self._last
        if count < known and steps + self._base[1] >= at:
            raise StateError(
                f"{_COUNT} went backwards.",
                [("before", known), ("now", count), ("steps since the last rebase", steps)],
                "Let it count from init_consumed_samples on. The last known position stands.",
            )
        return count

    def _settle_restore(self, awaited: _Restore, step: int) -> None:
        """A trainer that leaps to the step of the saved state, or past it, was restored: those steps are no training."""
        if step == 0:
            return
        if awaited.global_step is not None and 0 < awaited.global_step <= step:
            self._set_base(self._base[0], awaited.global_step, awaited.global_step)
            self._start = self._base
        self._awaited = None

    def _set_base(self, consumed: int, step: int | None, trainer_step: int | None = None) -> None:
        self._init_global_step = (self._trainer_step() or 0) if trainer_step is None else trainer_step
        self.sampler.init_global_step = self._init_global_step
        self._base = self._last = (consumed, step or 0)
        self._seen = {}

    # -- what a step takes

    def _configuration(self, saved: Snapshot, loader: SeekableSampler | None = None) -> Stretch | None:
        """What a step takes, as the loader, the sampler and the calculator know it; None if its size is unknown.

        What none of them knows is taken to be as it was when *saved* was saved.
        """
        sizes = self._sizes(loader)
        if sizes is None:
            return None
        last = saved.ledger.stretches[-1] if saved.ledger.stretches else Stretch()
        micro = _size(loader, "micro_batch_size") or _size(self.sampler, "micro_batch_size")
        per_round = _size(loader, "micro_batch_times_data_parallel_size")
        ranks = per_round // micro if per_round and micro else None
        ranks = ranks or _size(self.sampler, "data_parallel_size") or self._calculators_ranks()
        return replace(
            last,
            micro_batch_size=micro or last.micro_batch_size,
            data_parallel_size=ranks or last.data_parallel_size,
            accumulation=1,
            num_workers=0,
            schedule=sizes,
        )

    def _sizes(self, loader: SeekableSampler | None) -> LedgerSchedule | None:
        """The sizes of the optimizer steps, each of which accumulates as many of the sampler's steps."""
        times, schedule = self.accumulation, self.schedule
        if schedule is not None:
            return ledger_schedule(schedule) if times == 1 else UserSchedule(f"{times} x {ledger_schedule(schedule)}")
        size = _size(self.sampler, "global_batch_size")
        if self._can_be_asked(size):
            first, second = (self.sampler.compute_consumed_samples(steps) for steps in (1, 2))
            asked = whole_count(first, _COUNT) - self._base[0]
            if asked > 0 and whole_count(second, _COUNT) != self._base[0] + 2 * asked:
                return UserSchedule(type(self.sampler).__qualname__)
            size = asked if asked > 0 else size
        if size is None and loader is not None:
            size = loader.samples_per_batch
        return None if size is None else ConstantBatchSize(times * size)

    def _can_be_asked(self, size: int | None) -> bool:
        """Whether the sampler's own count, which may need a calculator, is there and says more than its *size*."""
        calculator, has_counted = self._calculator_in_use(), self._last[0] > self._start[0]
        is_ready = size is None if calculator is None else calculator.is_initialized
        return is_ready or (size is None and has_counted)

    def _calculators_ranks(self) -> int | None:
        calculator = self._calculator_in_use()
        is_ready = calculator is not None and calculator.is_initialized
        return _size(calculator, "data_parallel_size") if is_ready else None


def _size(source: object, name: str) -> int | None:
    """The attribute *name* of *source*, if it is a number of samples or ranks."""
    size = as_int(getattr(source, name, None))
    return size if size is not None and size > 0 else None


@dataclass(frozen=True, slots=True)
class _Restore:
    """A load at step 0, which the trainer's own restore to *global_step* may follow; None where it was not saved."""

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
