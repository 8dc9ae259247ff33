"""The run's stretches: which configuration trained which steps and which samples.

    steps     0 ──────────── 400 ─────────── 460 ──────►
    samples   0 ──────────── 12,800 ──────── 16,640 ───►
              │ 32 per step  │ 64 per step   │ 2 ranks x 32

One entry for each change of configuration, so a run that never changes has one entry for ever. One that changes all the
time keeps its last `MOST` at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final

from resumable.errors import ResumptionError, StateError, warn
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.schedule_format import LedgerSchedule, UserSchedule, dump_schedule
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan, DropLast
from resumable.steps.step_plan import StepPlan

__all__ = ["MAY_LACK", "MOST", "Ledger", "Stretch"]

MOST: Final = 128
"""The most stretches that a ledger keeps: some 8 KB of a saved state. A ledger with more gives up half of them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the run with one configuration, from its first step on.

    It begins after *step* optimizer steps and *sample* samples, at *offset* of *epoch*. An epoch has *length* samples;
    *drop_last* says what becomes of its tail, and *limit* is the most batches that an epoch may have.
    An optimizer step takes *accumulation* batches of *micro_batch_size* samples on each of *data_parallel_size* ranks,
    or what the *schedule* says. Each epoch begins with a new step, so an epoch's last step may take fewer.
    *reseed* is the seed of the random numbers that follow the position; None where they do not.
    *order* is what the stretch trained in another order than the run's present one; None where it is that.
    """

    step: int = 0
    sample: int = 0
    epoch: int = 0
    offset: int = 0
    length: int = 1
    micro_batch_size: int = 1
    data_parallel_size: int = 1
    accumulation: int = 1
    num_workers: int = 0
    drop_last: DropLast = False
    limit: int | None = None
    schedule: LedgerSchedule | None = None
    reseed: int | None = None
    order: Identity | None = None

    @property
    def begins(self) -> Position:
        """The position where the stretch begins."""
        return Position(self.sample, self.epoch, self.offset)

    @property
    def plan(self) -> BatchPlan | StepPlan:
        """The batches that a loader yields, grouped into steps where a schedule says how; `UserSchedule.known` may raise."""
        schedule = self.schedule
        if schedule is None:
            return self.batching
        known = schedule.known if isinstance(schedule, UserSchedule) else schedule
        return StepPlan(self.batching, known, self.micro_batch_size)

    @property
    def batching(self) -> BatchPlan:
        """How the stretch's epochs fall into batches."""
        return BatchPlan(self.length, self.micro_batch_size * self.data_parallel_size, self.drop_last, self.limit)

    @property
    def global_batch_size(self) -> int:
        """Samples of a whole optimizer step."""
        return self.micro_batch_size * self.data_parallel_size * self.accumulation

    @property
    def is_unknown(self) -> bool:
        """Whether only another program knows the sizes of the steps."""
        return isinstance(self.schedule, UserSchedule) and self.schedule.schedule is None

    def same_configuration(self, other: Stretch, /) -> bool:
        """Whether the two differ at most in where they begin."""
        return self == replace(other, step=self.step, sample=self.sample, epoch=self.epoch, offset=self.offset)

    def takes_on(self, following: Stretch, /) -> bool:
        """Whether the steps of *following*, which begins later, are those that this stretch would go on with."""
        same = replace(
            following,
            micro_batch_size=self.micro_batch_size,
            data_parallel_size=self.data_parallel_size,
            num_workers=self.num_workers,
        )
        takes_as_many = self.batching.batch_size == following.batching.batch_size and same.same_configuration(self)
        if not takes_as_many or isinstance(self.schedule, UserSchedule):
            return False
        after = self.position_after(following.step - self.step)
        return after == following.begins if self.length < UNBOUNDED else after.consumed_samples == following.sample

    def position_after(self, steps: int, /) -> Position:
        """Where *steps* optimizer steps lead from the stretch's beginning."""
        batching = self.plan
        if isinstance(batching, StepPlan):
            return batching.after(self.begins, steps)
        if batching.carries:
            return batching.advance(self.begins, steps * self.accumulation)
        first = batching.batches_left(self.offset)
        first_steps = -(-first // self.accumulation)
        if steps < first_steps:
            batches = steps * self.accumulation
        else:
            whole, rest = divmod(steps - first_steps, -(-batching.batches // self.accumulation))
            batches = first + whole * batching.batches + rest * self.accumulation
        return batching.advance(self.begins, batches)

    def steps_within(self, samples: int, /) -> int:
        """Optimizer steps that *samples* samples after the stretch's beginning complete."""
        batching = self.plan
        if isinstance(batching, StepPlan):
            return batching.steps_within(self.begins, samples)
        if batching.carries:
            return samples // self.global_batch_size
        first = batching.batches_left(self.offset)
        first_samples = batching.offset_after(self.offset, first) - self.offset
        if samples < first_samples:
            return samples // self.global_batch_size
        whole, rest = divmod(samples - first_samples, batching.offset_after(0, batching.batches))
        per_epoch = -(-batching.batches // self.accumulation)
        return -(-first // self.accumulation) + whole * per_epoch + rest // self.global_batch_size


@dataclass(frozen=True)  # without slots, for `rows`
class Ledger:
    """The stretches of a run in order, from step to sample and back.

    >>> ledger = Ledger().note(Stretch(length=1000, micro_batch_size=10))
    >>> ledger = ledger.note(Stretch(step=4, sample=40, offset=40, length=1000, micro_batch_size=20))
    >>> ledger.consumed_samples_at(6), ledger.global_step_at(80)
    (80, 6)
    """

    stretches: tuple[Stretch, ...] = ()

    def __len__(self) -> int:
        return len(self.stretches)

    def __iter__(self) -> Iterator[Stretch]:
        return iter(self.stretches)

    @cached_property
    def rows(self) -> list[list[Any]]:
        """The saved form, to be copied: the values of each stretch, without a `reseed` and an `order` of None at its end.

        A state may be saved after every batch, and the ledger rarely changes.
        """
        return [_row(stretch) for stretch in self]

    def note(self, stretch: Stretch, /) -> Ledger:
        """The ledger of a run that goes on in *stretch*; itself where that changes nothing.

        Warns where it would have more than `MOST` stretches. Then neighbours that take the same steps, on other numbers of
        ranks or workers, become one; where that does not help, the older half is given up.
        """
        kept = _before(self, stretch)
        if kept and kept[-1].same_configuration(stretch):
            return self if len(kept) == len(self.stretches) else Ledger(kept)
        return Ledger(_bounded((*kept, stretch)))

    def going_on(self, stretch: Stretch, /) -> Ledger:
        """The ledger of a run that goes on in *stretch*, whose first step is counted from the stretches before it.

        Without any, its own first step stays. After a stretch whose schedule is known by its name alone, or too long to be
        counted, steps are counted from where that began, unless *stretch* has the schedule of this name.
        """
        known = stretch.schedule  # in place of its saved name
        ledger = Ledger(tuple(replace(s, schedule=known) if s.is_unknown and s.schedule == known else s for s in self))
        before = [s for s in ledger if s.sample <= stretch.sample][-1:]
        step, kept = stretch.step, _before(ledger, stretch)
        if before and not (kept and kept[-1].same_configuration(stretch)):
            step = before[0].step
            with suppress(ResumptionError):
                step = ledger.global_step_at(stretch.sample)
        return ledger.note(replace(stretch, step=step))

    def in_order(self, order: Identity | None, /) -> Ledger:
        """The ledger of a run whose steps so far were trained in *order*, from which it now changes to another one.

        >>> [stretch.order for stretch in Ledger((Stretch(),)).in_order(Identity("shuffled", 10, 1))]
        [Identity(kind='shuffled', length=10, seed=1)]
        """
        return Ledger(tuple(replace(each, order=each.order or order) for each in self))

    def words_at(self, at: Position | None, /) -> list[str]:
        """Where *at* is in its epoch, for people; nothing where that is unknown.

        >>> Ledger((Stretch(length=1000, micro_batch_size=10),)).words_at(Position(1040, 1, 40))
        ['epoch 1', 'batch 4 of 100']
        """
        if at is None or not self.stretches:
            return []
        plan = self.stretches[-1].batching
        if self.stretches[-1].is_unknown:
            return [f"epoch {at.epoch}", f"sample {at.offset} of it"]
        left = plan.batches_left(at.offset)
        done = at.offset // plan.batch_size if plan.carries else plan.batches - left
        return [f"epoch {at.epoch}", f"batch {done} of {done + left}"]

    def __str__(self) -> str:
        """A line for each stretch, with the names of its fields.

        >>> print(Ledger((Stretch(length=1000, micro_batch_size=10),)))
        step 0, sample 0: epoch 0, offset 0, length 1000, micro_batch_size 10, data_parallel_size 1, accumulation 1, \
num_workers 0, drop_last False, limit None, schedule None
        """
        return "\n".join(
            f"step {stretch.step}, sample {stretch.sample}: "
            + ", ".join(
                f"{name} {getattr(stretch, name)}"
                for name in STRETCH_FIELDS[2:]
                if name not in MAY_LACK or getattr(stretch, name) is not None
            )
            for stretch in self
        )

    def consumed_samples_at(self, global_step: int, /) -> int:
        """Samples consumed when *global_step* optimizer steps were complete.

        Raises:
            StateError: before the first stretch, of which nothing is known, and within a stretch whose schedule is
                known by its name alone; `global_step_at` raises it as well.
        """
        found = self._around("global_step", global_step, lambda stretch: stretch.step)
        if not found:
            return 0
        consumed = found[0].position_after(global_step - found[0].step).consumed_samples
        return min([consumed, *(following.sample for following in found[1:])])

    def global_step_at(self, consumed_samples: int, /) -> int:
        """Optimizer steps that were complete when *consumed_samples* samples were consumed.

        Raises:
            StateError: as `consumed_samples_at`.
        """
        found = self._around("consumed_samples", consumed_samples, lambda stretch: stretch.sample)
        if not found:
            return 0
        step = found[0].step + found[0].steps_within(consumed_samples - found[0].sample)
        return min([step, *(following.step for following in found[1:])])

    def _around(self, name: str, number: int, begins: Callable[[Stretch], int]) -> tuple[Stretch, ...]:
        """The stretch of *number* and the one after it; nothing at the run's beginning, before any stretch."""
        at = bisect_right(self.stretches, number, key=begins)
        if not at and number > 0:
            first = self.stretches[0] if self.stretches else None
            known = "nowhere yet" if first is None else f"step {first.step}, sample {first.sample}"
            raise StateError(
                "The ledger does not know this part of the run.",
                [(name, number), ("it begins at", known)],
                "Ask from there on. The run has trained nothing yet, was saved by an older version, or has changed its "
                f"configuration more than {MOST} times.",
            )
        return self.stretches[at - 1 : at + 1] if at else ()


def _row(stretch: Stretch) -> list[Any]:
    order = stretch.order and [stretch.order.kind, stretch.order.length, stretch.order.seed]
    last = [dump_schedule(stretch.schedule), stretch.reseed, order]
    while len(last) > 1 and last[-1] is None:
        last.pop()
    return [*(getattr(stretch, name) for name in STRETCH_FIELDS[:SCHEDULE]), *last]


def _before(ledger: Ledger, stretch: Stretch) -> tuple[Stretch, ...]:
    return tuple(each for each in ledger if each.sample < stretch.sample)


def _bounded(stretches: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    """*stretches*, if they are not too many; otherwise at most half as many as may be."""
    if len(stretches) <= MOST:
        return stretches
    joined: list[Stretch] = []
    for stretch in stretches:
        is_joined = bool(joined) and joined[-1].takes_on(stretch)
        at = joined.pop() if is_joined else stretch
        joined.append(replace(stretch, step=at.step, sample=at.sample, epoch=at.epoch, offset=at.offset))
    kept = tuple(joined[-MOST // 2 :])
    lost = "On how many ranks and workers each step was trained" if len(kept) == len(joined) else "What came before"
    warn(
        f"The run has changed its configuration {MOST} times, as often as its ledger can hold.",
        [("stretches", len(stretches)), ("kept", len(kept)), ("from", f"step {kept[0].step}, sample {kept[0].sample}")],
        f"{lost} is no longer known. Resumes stay exact.",
    )
    return kept


STRETCH_FIELDS = tuple(field.name for field in fields(Stretch))
"""The keys of a saved stretch."""

SCHEDULE: Final = STRETCH_FIELDS.index("schedule")
"""The place of the schedule among them."""

MAY_LACK: Final = STRETCH_FIELDS[SCHEDULE + 1 :]
"""Those that a saved stretch has only where they are not None."""
