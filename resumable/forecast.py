"""What a run will look like, from its sizes alone: its steps, its epochs, its batch sizes, and what a resize changes.

    stages    from which step on which global batch size holds
    epochs    equal ones together: steps, samples, what the tail drops or pads
    parts     the run up to each resize and after it, with the verdict of going on there

Nothing is read from a dataset or a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

from resumable.errors import ConfigurationError
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.resolve import Policy, resolve
from resumable.saved.snapshot import Snapshot
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule
from resumable.steps.step_plan import StepPlan
from resumable.verdict import Difference, Verdict

__all__ = ["EpochRow", "Forecast", "Part", "Resize", "StageRow", "epochs_of", "forecast", "stages_of"]

_MOST_ROWS: Final = 1_000
"""Unequal epochs that are listed one by one."""


class Resize(NamedTuple):
    """After *step* completed steps the run goes on with other sizes."""

    step: int
    data_parallel_size: int
    micro_batch_size: int


class StageRow(NamedTuple):
    """From step *first_step* on, counted from 1, which begins at *begins*, a step takes *batch_size* samples."""

    first_step: int
    begins: Position
    batch_size: int
    rounds: int
    """Micro batches of each rank in a step."""


class EpochRow(NamedTuple):
    """*epochs* epochs in a row from *epoch* on, each with so many *steps* that train so many *samples*.

    Of the tail, *dropped* samples are left out and *padded* ones are trained again, so that all ranks get equally many.
    The last step takes *last_step* samples. With "carry" an epoch has the steps that begin in it.
    """

    epoch: int
    epochs: int
    steps: int
    samples: int
    last_step: int
    dropped: int
    padded: int


@dataclass(frozen=True, slots=True)
class Part:
    """The run from *stretch*'s beginning on, *steps* steps, to the next resize or the end, which is at *ends*.

    *verdict* is that of a resume there, from the sizes before it; None for the first part. One that is refused has no
    steps, and nothing follows it. *left* are the steps from its
    beginning to the end of the run, and *left_before* those that would have been left without the resize.
    """

    stretch: Stretch
    steps: int
    ends: Position
    left: int
    left_before: int
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The parts of a run of *epochs* epochs.

    >>> run = forecast(Stretch(length=10, micro_batch_size=2, data_parallel_size=2), epochs=3)
    >>> run.total_steps, run.ends
    (9, Position(consumed_samples=30, epoch=3, offset=0))
    >>> run.epochs[0]
    EpochRow(epoch=0, epochs=3, steps=3, samples=10, last_step=2, dropped=0, padded=0)
    """

    parts: tuple[Part, ...]

    @property
    def ends(self) -> Position:
        """Where the run ends."""
        return self.parts[-1].ends

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(part.steps for part in self.parts)

    @property
    def stages(self) -> list[StageRow]:
        """Where each batch size begins that a step takes."""
        rows = list[StageRow]()
        for part in self.parts:
            for row in stages_of(part.stretch, part.steps):
                if not rows or (rows[-1].batch_size, rows[-1].rounds) != (row.batch_size, row.rounds):
                    rows.append(row)
        return rows

    @property
    def epochs(self) -> list[EpochRow]:
        """The epochs of the run, or its first ones where very many differ."""
        rows = list[EpochRow]()
        for row in self._epochs():
            last = rows[-1] if rows else None
            if last is not None and last[2:] == row[2:]:
                rows[-1] = last._replace(epochs=last.epochs + row.epochs)
            elif len(rows) == _MOST_ROWS:
                break
            else:
                rows.append(row)
        return rows

    def _epochs(self) -> Iterator[EpochRow]:
        """Epoch after epoch; of one that a resize cuts, both parts together."""
        begun: EpochRow | None = None
        for part in self.parts:
            for row, is_whole in epochs_of(part.stretch, part.steps):
                if begun is not None and begun.epoch != row.epoch:  # the other sizes leave no step in the rest of it
                    yield begun._replace(dropped=part.stretch.length - begun.samples)
                    begun = None
                joined = row if begun is None else _joined(begun, row)
                begun = None if is_whole else joined
                if is_whole:
                    yield joined
        if begun is not None:  # a resize that is refused ends the run in it
            yield begun


def forecast(stretch: Stretch, /, *, epochs: int = 1, resizes: Sequence[Resize] = ()) -> Forecast:
    """A run in the sizes of *stretch*, from its first sample to the end of *epochs* epochs, with *resizes* on the way.

    Raises:
        ConfigurationError: if an epoch has no step, a step does not fall into whole micro batches, or a resize does not come
            within the run.
    """
    parts = list[Part]()
    left_before, verdict = 0, None
    _check(stretch)
    for number, resize in enumerate([*resizes, None]):
        left = _steps_to(stretch, epochs)
        if resize is None:
            parts.append(
                Part(stretch, left, stretch.position_after(left), left, left_before if number else left, verdict)
            )
            break
        steps = resize.step - stretch.step
        if not 0 <= steps < left:
            raise ConfigurationError(
                "A resize must come within the run, after the one before it.",
                [
                    ("step of the resize", resize.step),
                    ("steps of the run", stretch.step + left),
                    ("after", stretch.step),
                ],
                "Pass a smaller step, in order, or more epochs.",
            )
        at = stretch.position_after(steps)
        parts.append(Part(stretch, steps, at, left, left_before if number else left, verdict))
        left_before = left - steps
        stretch, verdict = _resized(stretch, resize, at)
        if verdict.outcome == "refused":
            parts.append(Part(stretch, 0, at, 0, left_before, verdict))
            break
    return Forecast(tuple(parts))


def _resized(stretch: Stretch, resize: Resize, at: Position) -> tuple[Stretch, Verdict]:
    """What the run goes on in, and how exactly."""
    following = replace(
        stretch,
        step=resize.step,
        sample=at.consumed_samples,
        epoch=at.epoch,
        offset=at.offset,
        micro_batch_size=resize.micro_batch_size,
        data_parallel_size=resize.data_parallel_size,
    )
    if isinstance(stretch.schedule, DivisibleSchedule):
        following = replace(following, schedule=replace(stretch.schedule, divisor=following.batching.batch_size))
    order = Identity("planned", stretch.length)
    saved = Snapshot(at.consumed_samples, at.epoch, at.offset, order, ledger=Ledger((stretch,)))
    try:
        found = resolve(saved, order, following, Policy())
        _check(following)
    except ConfigurationError as error:
        what, *why = str(error).splitlines()
        values = ", ".join(" ".join(line.split()) for line in why[:-1])
        refused = Difference(what, _sizes_of(stretch), _sizes_of(following), f"({values}) {why[-1]}")
        return following, Verdict("refused", (refused,))
    return replace(following, epoch=found.position.epoch, offset=found.position.offset), found.verdict


def _sizes_of(stretch: Stretch) -> str:
    return f"{stretch.data_parallel_size} x {stretch.micro_batch_size}"


def _check(stretch: Stretch) -> None:
    plan = stretch.plan
    if isinstance(plan, StepPlan):
        plan.check_from(stretch.begins)
    else:
        plan.position_at(0)


def _steps_to(stretch: Stretch, epochs: int) -> int:
    """Steps from the beginning of *stretch* to the end of epoch *epochs* - 1."""
    return _first(lambda steps: stretch.position_after(steps).epoch >= epochs)


def _first(holds: Callable[[int], bool]) -> int:
    """The smallest number from 0 on for which *holds*, as it does for all larger ones."""
    below, number = -1, 1
    while not holds(number):
        below, number = number, 2 * number
    while number - below > 1:
        middle = (below + number) // 2
        below, number = (below, middle) if holds(middle) else (middle, number)
    return number


def stages_of(stretch: Stretch, steps: int, /) -> Iterator[StageRow]:
    """Where each batch size begins in the first *steps* steps of *stretch*; a user-defined schedule's is unknown.

    >>> [row.batch_size for row in stages_of(Stretch(length=10, micro_batch_size=2), 3)]
    [2]
    """
    schedule, per_round = stretch.schedule, stretch.batching.batch_size
    if steps and not isinstance(schedule, PiecewiseSchedule):
        yield StageRow(stretch.step + 1, stretch.begins, stretch.global_batch_size, stretch.accumulation)
        return
    done = 0
    while isinstance(schedule, PiecewiseSchedule) and done < steps:
        at = stretch.position_after(done) if done else stretch.begins
        size, stop = next(schedule.stages_from(at.consumed_samples))
        yield StageRow(stretch.step + done + 1, at, size, -(-size // per_round))
        done = steps if stop is None else _first(partial(_is_past, stretch, stop))


def _is_past(stretch: Stretch, consumed_samples: int, steps: int) -> bool:
    return stretch.position_after(steps).consumed_samples >= consumed_samples


def epochs_of(stretch: Stretch, steps_in_all: int, /) -> Iterator[tuple[EpochRow, bool]]:
    """The epochs of the first *steps_in_all* steps of *stretch*, and whether each comes to its end in them.

    >>> list(epochs_of(Stretch(length=10, micro_batch_size=4), 4))
    [(EpochRow(epoch=0, epochs=1, steps=3, samples=10, last_step=2, dropped=0, padded=0), True), \
(EpochRow(epoch=1, epochs=1, steps=1, samples=4, last_step=4, dropped=0, padded=0), False)]
    """
    done, at = 0, stretch.begins
    last_epoch = stretch.position_after(steps_in_all).epoch
    while done < steps_in_all:
        steps = min(steps_in_all, _first(partial(_is_after, stretch, at.epoch))) - done
        ends = stretch.position_after(done + steps)
        last = ends.consumed_samples - stretch.position_after(done + steps - 1).consumed_samples if steps > 1 else 0
        samples, is_whole = ends.consumed_samples - at.consumed_samples, ends.epoch > at.epoch
        left = stretch.length - at.offset
        row = EpochRow(
            at.epoch,
            last_epoch - at.epoch if is_whole and _are_equal_from(stretch, at) else 1,
            steps,
            samples,
            last or samples,
            left - samples if is_whole and stretch.drop_last is True else 0,
            -left % stretch.data_parallel_size if is_whole and stretch.drop_last is False else 0,
        )
        yield row, is_whole
        done += steps * row.epochs
        at = stretch.position_after(done)


def _is_after(stretch: Stretch, epoch: int, steps: int) -> bool:
    return stretch.position_after(steps).epoch > epoch


def _are_equal_from(stretch: Stretch, at: Position) -> bool:
    """Whether all epochs from *at* on have the same steps."""
    if at.offset or stretch.drop_last == "carry":
        return False
    schedule = stretch.schedule
    return not isinstance(schedule, PiecewiseSchedule) or next(schedule.stages_from(at.consumed_samples)).stop is None


def _joined(begun: EpochRow, rest: EpochRow) -> EpochRow:
    """One epoch, of which a resize lies between *begun* and *rest*."""
    return rest._replace(steps=begun.steps + rest.steps, samples=begun.samples + rest.samples)
