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

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from typing_extensions import override

from resumable.checks import as_int, whole_count
from resumable.data_sampler.calculators import calculator_in_use
from resumable.data_sampler.options import SamplerOptions
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins
from resumable.data_sampler.written import unchanged_on_error, undo_of_load
from resumable.errors import StateError, warn
from resumable.orders.identity import CYCLIC, Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Progress, undo_of
from resumable.protocols import BatchSchedule, DataSampler, MicrobatchCalculator, Trainer
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import compare, refuse_or_warn, refuse_several, regrouped, with_reseed
from resumable.saved.schedule_format import LedgerSchedule, UserSchedule, ledger_schedule
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import UNBOUNDED
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, in_whole_rounds
from resumable.verdict import Verdict

__all__ = ["DataSamplerProgress"]

_COUNT = "compute_consumed_samples()"


class DataSamplerProgress(Progress):
    """The samples that a data sampler counts over the trained steps.

    *trainer* returns the trainer, or None while there is none: the last known count stands then. *steps* returns how
    many steps are trained; without it, these are the trainer's. The calculator, that of *options* or of a framework, is
    told where the run is and knows what a step takes. *judge* gets the verdict on a load, once a train loader shows its
    order.
    """

    order: Identity | None = None
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
        self._steps = self._trainer_step if steps is None else steps
        self._options = options
        self.reseed: int | None = options.reseed
        self._judge = judge
        self._saved = Snapshot()
        consumed = whole_count(getattr(sampler, "init_consumed_samples", 0), "init_consumed_samples")
        self._base = self._start = self._last = (consumed, 0)
        self._init_global_step = 0
        self._stretch: Stretch | None = None
        self._loader: SeekableSampler | None = None
        self._seen: dict[int, int] = {}
        self._untold: int | None = None
        self._awaits_restore = False
        self._is_judged = True

    # -- the progress, as the state asks for it

    @property
    @override
    def position(self) -> Position:
        consumed, epoch, offset = self._now()
        return Position(consumed, epoch or 0, offset or 0)

    def _now(self) -> tuple[int, int | None, int | None]:
        """The consumed samples, and the epoch and offset where they are known."""
        return self.consumed_samples, None, None

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed; the last known ones where there is no trainer."""
        return self._counted(self._steps())

    def _counted(self, step: int | None) -> int:
        if step is None:
            return self._last[0]
        if self._awaits_restore and step > 0:
            self._awaits_restore, saved = False, self._saved.global_step
            if saved is not None and 0 < saved <= step:  # the trainer was restored: these steps are no training
                self._set_base(self._base[0], saved, saved)
                self._start = self._base
        if step != self._last[1]:
            self._last = (self.count(step), step)
        return self._last[0]

    @property
    @override
    def init_global_step(self) -> int:
        return self._init_global_step

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        consumed, epoch, offset = self._now()
        saved = self._saved
        # the saved step count, where nothing was trained since, shows a trainer that is restored after the load
        at_saved = saved.global_step is not None and saved.consumed_samples == consumed
        step = saved.global_step if at_saved else self._trainer_step()
        ledger = ledger_at(self.present_stretch, consumed)
        return Snapshot(consumed, epoch, offset, self.order, ledger=ledger, global_step=step)

    @property
    @override
    def present_stretch(self) -> Stretch | None:
        if self._stretch is None and self.consumed_samples > self._start[0]:
            self._stretch = self._stretch_from_start()
        return self._stretch

    def _trainer_step(self) -> int | None:
        trainer = self._trainer()
        return None if trainer is None else trainer.global_step

    def _stretch_from_start(self) -> Stretch | None:
        """What the steps take since the load, across the ends of epochs, as the count does; None if it is unknown."""
        known, (sample, step) = self._configuration(self._saved, self._loader), self._start
        return known and replace(
            known, step=step, sample=sample, epoch=0, offset=0, length=UNBOUNDED, drop_last="carry", limit=None
        )

    @override
    def restore_point(self) -> Callable[[], object]:
        undo = ExitStack()
        undo.callback(self._tell, self._last[0])
        undo.callback(undo_of_load(self.sampler))
        undo.callback(undo_of(self))  # it comes first
        return undo.close

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*; what a train loader shows is judged later. After an error all is as it was."""
        differences = regrouped(saved, self._configuration(saved))
        self._take(saved)
        return Verdict("regrouped", differences) if differences else Verdict()

    def _take(self, saved: Snapshot) -> None:
        """Write the saved count where the mixin writes it."""
        refuse_several(saved)
        consumed, step = saved.consumed_samples, self._steps()
        with unchanged_on_error(self.sampler):
            self.sampler.init_consumed_samples = consumed
            self.sampler.prev_consumed_samples = consumed
            self._tell(consumed)
            self.sampler.if_first_step = 1
            self._seen = {}
            self._set_base(consumed, step)
        self._awaits_restore = not step
        self._saved, self.order = saved, saved.order
        self._start, self._stretch, self._is_judged = self._base, None, False

    def rebase(self) -> None:
        """Move the first step and the count together, so that calling this at any time changes nothing.

        A calculator that was not yet initialized at the load is told now.
        """
        step = self._steps()
        if self._awaits_restore and self._saved.global_step is None and step is not None:
            self._awaits_restore, consumed = False, self._base[0]  # BioNeMo's rule: the first call sets the step
            self._start = (consumed, step)
        else:
            consumed = self._counted(step)
        if self._untold is not None:
            self._tell(self._untold)
        self.sampler.init_consumed_samples = consumed
        self._set_base(consumed, step)

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
        self._is_judged, self._loader = True, sampler
        self.order = sampler.identity  # pyright: ignore[reportIncompatibleMethodOverride]
        self._let_reseed(sampler)

    def _let_reseed(self, sampler: SeekableSampler) -> None:
        sampler.reseed, sampler.passes_epoch = self.reseed, self._options.passes_epoch

    def _compared(self, sampler: SeekableSampler, offset: int, current: Stretch | None) -> Verdict:
        order, saved = sampler.identity, self._saved.order
        if saved is not None and saved.kind == CYCLIC and order.kind.startswith(CYCLIC):
            saved = replace(order, length=saved.length)  # older states did not say how a cyclic order shuffles
        verdict = compare(saved or order, order, offset=offset, regrouped=regrouped(self._saved, current))
        self.reseed, verdict = with_reseed(verdict, self._saved, self._options.reseed, self._options.policy)
        refuse_or_warn(verdict, self._options.policy.on_mismatch)
        return verdict

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset, if every epoch is as long as *sampler*'s."""
        return divmod(self.consumed_samples, len(sampler) * sampler.samples_per_batch)

    # -- the steps

    def step_starts(self, step: int, /) -> None:
        """Note what the step that follows *step* others takes, as it begins or has just ended, if the sizes vary."""
        calculator = self._calculator_of_sizes()
        if calculator is None:
            return
        self._awaits_restore = self._awaits_restore and step > 0  # a trainer that trains its first step is not restored
        trained = self._steps()
        self._count_from(self._counted(trained), trained)
        self._seen[step] = self._seen.get(step, 0) + calculator.current_global_batch_size

    def set_calculator(self, step: int, /) -> None:
        """Give the step that follows *step* trained ones the size of its position, whatever has moved the calculator.

        NeMo's sampler lets the calculator lag by the first batch in a fresh session and not in a resumed one, and moves
        it after validation steps: a resumed run would divide the same samples into other batches.
        """
        calculator = self._calculator_of_sizes()
        if calculator is not None:
            calculator.update(self.count(step))

    def _calculator_of_sizes(self) -> MicrobatchCalculator | None:
        return None if self.schedule is None else self._calculator()

    @property
    def schedule(self) -> BatchSchedule | None:
        """The batch sizes to come, where they vary: as given, by the calculator, by the sampler's `rampup_batch_size`.

        A step takes whole micro batches, so a size that does not divide into these counts as what they hold.
        """
        found = self._options.schedule or getattr(self._calculator_in_use(), "schedule", None)
        ramp: Any = getattr(self.sampler, "rampup_batch_size", None)
        if found is None and ramp:
            found = LinearRampup.from_megatron(ramp, getattr(self.sampler, "global_batch_size"))  # noqa: B009
        micro, ranks = self._round(self._loader)
        return found if found is None or not micro or not ranks else in_whole_rounds(found, micro * ranks)

    def _round(self, loader: SeekableSampler | None) -> tuple[int | None, int | None]:
        """The micro batch size and the number of ranks, as the loader, the sampler and the calculator know them."""
        micro = _size(loader, "micro_batch_size") or _size(self.sampler, "micro_batch_size")
        per_round = _size(loader, "micro_batch_times_data_parallel_size")
        ranks = per_round // micro if per_round and micro else None
        return micro, ranks or _size(self.sampler, "data_parallel_size") or _size(
            self._calculator(), "data_parallel_size"
        )

    def _calculator_in_use(self) -> MicrobatchCalculator | None:
        return calculator_in_use() if self._options.calculator is None else self._options.calculator

    def _calculator(self) -> MicrobatchCalculator | None:
        """The calculator, once its framework has set it up."""
        calculator = self._calculator_in_use()
        return calculator if calculator is not None and calculator.is_initialized else None

    def _tell(self, consumed: int) -> None:
        calculator = self._calculator()
        if calculator is not None:
            calculator.update(consumed)
        self._untold = consumed if calculator is None else None

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
        taken = self._taken_by_a_step()
        if taken is not None:
            return self._base[0] + steps * taken
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

    def _taken_by_a_step(self) -> int | None:
        """The samples of a training step, where those are known to be others than the sampler says."""
        return None

    def _set_base(self, consumed: int, step: int | None, trainer_step: int | None = None) -> None:
        self._init_global_step = (self._trainer_step() or 0) if trainer_step is None else trainer_step
        self.sampler.init_global_step = self._init_global_step
        self._count_from(consumed, step)

    def _count_from(self, consumed: int, step: int | None) -> None:
        """Let *consumed* be the count at *step*; of what was seen, an open window's steps stay."""
        first = step or 0
        self._base = self._last = (consumed, first)
        self._seen = {number: size for number, size in self._seen.items() if number >= first}

    # -- what a step takes

    def _configuration(self, saved: Snapshot, loader: SeekableSampler | None = None) -> Stretch | None:
        """What a step takes, as the loader, the sampler and the calculator know it; None if its size is unknown.

        What none of them knows is taken to be as it was when *saved* was saved.
        """
        sizes = self._sizes(loader)
        if sizes is None:
            return None
        last = saved.ledger.stretches[-1] if saved.ledger.stretches else Stretch()
        micro, ranks = self._round(loader)
        return replace(
            last,
            micro_batch_size=micro or last.micro_batch_size,
            data_parallel_size=ranks or last.data_parallel_size,
            accumulation=1,
            num_workers=0,
            schedule=sizes,
            reseed=self.reseed,
        )

    def _sizes(self, loader: SeekableSampler | None) -> LedgerSchedule | None:
        """The sizes of the optimizer steps, each of which accumulates as many of the sampler's steps."""
        times, schedule = self.accumulation, self.schedule
        if schedule is not None:
            return ledger_schedule(schedule) if times == 1 else UserSchedule(f"{times} x {ledger_schedule(schedule)}")
        size = self._taken_by_a_step() or _size(self.sampler, "global_batch_size")
        # its own count, which may need a calculator, says more than its size
        is_sizeless = size is None and (self._last[0] > self._start[0] or self._calculator_in_use() is None)
        if self._taken_by_a_step() is None and (is_sizeless or self._calculator() is not None):
            try:
                first, second = (self.sampler.compute_consumed_samples(steps) for steps in (1, 2))
            except Exception:  # noqa: BLE001  # the user's, and it may need a trainer that connects after the load
                first = second = self._base[0]
            asked = whole_count(first, _COUNT) - self._base[0]
            if asked > 0 and whole_count(second, _COUNT) != self._base[0] + 2 * asked:
                return UserSchedule(type(self.sampler).__qualname__)
            size = asked if asked > 0 else size
        if size is None and loader is not None:
            size = loader.samples_per_batch
        return None if size is None else ConstantBatchSize(times * size)


def _size(source: object, name: str) -> int | None:
    """The attribute *name* of *source*, if it is a number of samples or ranks."""
    size = as_int(getattr(source, name, None))
    return size if size is not None and size > 0 else None
