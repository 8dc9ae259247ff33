"""An audited run as what a picture of it shows: its sessions over the optimizer steps, and what became of each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import pairwise
from typing import Final

from resumable.audit import AuditedRun, Fault, Kept, Session, faults_of
from resumable.errors import ResumptionError
from resumable.forecast import StageRow, epochs_of, stages_of
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.steps.batch_plan import UNBOUNDED

__all__ = ["Bar", "EpochCover", "Piece", "Timeline", "timeline_of"]

_POINTS: Final = 200
_MOST_EPOCHS: Final = 60
"""Epochs that are drawn one by one; of a longer run, whole ones are drawn together."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One session: from *first_step* on, it *counts* up to *last_step*, and had *reached* a later one if it was undone.

    Steps are completed ones. *curve* has (steps, consumed samples) on its way, as far as it counts.
    """

    number: int
    began: datetime
    ranks: int
    micro_batch_size: int
    first_step: int
    last_step: int
    reached: int
    begins: Position
    ends: Position
    was_killed: bool
    is_running: bool
    curve: tuple[tuple[int, int], ...]
    stages: tuple[StageRow, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The samples of an epoch from place *start* to *stop*, trained by *session*; None: what its *kind* says."""

    start: int
    stop: int
    session: int | None
    kind: str = "trained"


@dataclass(frozen=True, slots=True)
class EpochCover:
    """What became of *epochs* epochs from *epoch* on, each of *length* samples."""

    epoch: int
    epochs: int
    length: int
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """Its number, or those of several that are alike."""
        return f"{self.epoch}" if self.epochs == 1 else f"{self.epoch} to {self.epoch + self.epochs - 1}"


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run, ready to be drawn."""

    bars: tuple[Bar, ...]
    epochs: tuple[EpochCover, ...]
    faults: tuple[Fault, ...]
    ends: Position
    undone_samples: int
    verdict: str

    @property
    def steps(self) -> int:
        """The optimizer steps that count."""
        return max(bar.last_step for bar in self.bars)

    @property
    def resizes(self) -> list[tuple[Bar, Bar]]:
        """Sessions that count, one after the other, whose numbers of ranks or micro batches differ."""
        kept = [bar for bar in self.bars if bar.last_step > bar.first_step]
        return [
            (before, after)
            for before, after in pairwise(kept)
            if (before.ranks, before.micro_batch_size) != (after.ranks, after.micro_batch_size)
        ]


def timeline_of(run: AuditedRun, /) -> Timeline:
    """*run* with its steps counted, and its epochs covered."""
    bars, faults = _bars(run), faults_of(run)
    return Timeline(tuple(bars), tuple(_covers(run, faults)), tuple(faults), run.ends, run.undone_samples, run.verdict)


# -- the sessions


def _bars(run: AuditedRun) -> list[Bar]:
    ends = {id(kept.session): kept.ends for kept in run.kept}
    bars = list[Bar]()
    chain: list[tuple[Stretch, int]] = []
    for number, session in enumerate(run.sessions):
        at = session.begins.consumed_samples
        chain = [each for each in chain if each[0].sample < at]
        first = chain[-1][1] + _steps(chain[-1][0], at - chain[-1][0].sample) if chain else 0
        stretch = replace(_counted(session.stretch), step=first)
        chain.append((stretch, first))
        bars.append(_bar(number, session, stretch, ends.get(id(session), session.begins)))
    return bars


def _counted(stretch: Stretch) -> Stretch:
    """*stretch*, its steps counted in batches where only the user's code knows its schedule."""
    return replace(stretch, schedule=None) if stretch.is_unknown else stretch


def _steps(stretch: Stretch, samples: int) -> int:
    try:
        return stretch.steps_within(samples)
    except ResumptionError:
        return samples // stretch.batching.batch_size


def _bar(number: int, session: Session, stretch: Stretch, ends: Position) -> Bar:
    first, begins = stretch.step, session.begins
    kept = _steps(stretch, ends.consumed_samples - stretch.sample)
    trained = session.trained
    reached = max(kept, _steps(stretch, trained.consumed_samples - stretch.sample))
    return Bar(
        number=number,
        began=datetime.fromtimestamp(session.records[0].time / 1e9, tz=timezone.utc),
        ranks=session.size,
        micro_batch_size=stretch.micro_batch_size,
        first_step=first,
        last_step=first + kept,
        reached=first + reached,
        begins=begins,
        ends=ends,
        was_killed=session.was_killed,
        is_running=session.is_running,
        curve=_curve(stretch, kept),
        stages=tuple(stages_of(stretch, kept)),
    )


def _curve(stretch: Stretch, last: int) -> tuple[tuple[int, int], ...]:
    """Steps and consumed samples, at some steps up to *last*."""
    steps = sorted({last * at // _POINTS for at in range(_POINTS + 1)})
    counts = [stretch.position_after(each).consumed_samples if each else stretch.sample for each in steps]
    return tuple((stretch.step + each, count) for each, count in zip(steps, counts, strict=True))


# -- the epochs


def _covers(run: AuditedRun, faults: Sequence[Fault]) -> list[EpochCover]:
    numbers = {id(session): number for number, session in enumerate(run.sessions)}
    found: dict[int, EpochCover] = {}
    for kept in run.kept:
        for cover in _cover(kept, numbers[id(kept.session)]):
            before = found.get(cover.epoch)
            joined = cover if before is None else replace(before, pieces=(*before.pieces, *cover.pieces))
            found[cover.epoch] = joined
    for fault in faults:
        _add_fault(found, fault)
    return [found[epoch] for epoch in sorted(found)]


def _add_fault(found: dict[int, EpochCover], fault: Fault) -> None:
    """Mark *fault* in its epochs; of scattered samples the first."""
    length = max((cover.length for cover in found.values()), default=1)
    epoch, place, left = fault.epoch, fault.place, 1 if fault.is_scattered else fault.samples or 1
    for _ in range(_MOST_EPOCHS):
        at = next((each for each in found.values() if each.epoch <= epoch < each.epoch + each.epochs), None)
        cover = EpochCover(epoch, 1, length, ()) if at is None else at
        stop = min(cover.length, place + left)
        piece = Piece(min(place, cover.length - 1), max(stop, place + 1), None, fault.kind)
        found[cover.epoch] = replace(cover, pieces=(*cover.pieces, piece))
        left -= stop - place
        if left <= 0:
            return
        epoch, place = epoch + 1, 0


def _cover(kept: Kept, number: int) -> Iterator[EpochCover]:
    """The epochs of one session; equal ones together where there are many."""
    stretch, begins, ends = _counted(kept.session.stretch), kept.begins, kept.ends
    if stretch.length >= UNBOUNDED:  # a data sampler's: its epochs follow from the count, as far as they are known
        order = kept.session.order
        length = ends.consumed_samples if order is None else order.length
        epoch, offset = divmod(begins.consumed_samples, length)
        stretch = replace(stretch, epoch=epoch, offset=offset, length=length)
    offset = stretch.offset
    for row, _ in epochs_of(stretch, _steps(stretch, ends.consumed_samples - stretch.sample)):
        pieces = (Piece(offset, min(stretch.length, offset + row.samples), number),)
        if row.epochs > _MOST_EPOCHS:
            yield EpochCover(row.epoch, row.epochs, stretch.length, pieces)
        else:
            yield from (EpochCover(row.epoch + each, 1, stretch.length, pieces) for each in range(row.epochs))
        offset = 0
