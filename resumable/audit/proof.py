"""The proof that a run has trained each sample of its epochs exactly once, or the first sample that it has not.

What is proven: the sessions that count follow each other without a gap, each at a position that the one before it has
reached; every rank was given its part up to there; nothing was passed over; and within an epoch the order stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final, Literal

import numpy as np

from resumable.audit.records import Record
from resumable.audit.runs import AuditedRun, Kept, Session
from resumable.errors import ResumptionError
from resumable.feeds.feed import Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.history import known_order
from resumable.orders.identity import Identity
from resumable.orders.orders import Sequential, Shuffled
from resumable.position import Position
from resumable.protocols import Order
from resumable.saved.ledger import Stretch
from resumable.steps.batch_plan import UNBOUNDED

__all__ = ["Fault", "faults_of"]

_LONGEST: Final = 50_000_000
"""The longest epoch of which two orders are compared sample by sample."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first sample of a stretch of samples that were *lost* or *repeated*, or of which that is *unknown*.

    *sample* counts the run's samples from 0; *place* is its place in the order of *epoch*, and *index* what it is in the
    dataset, None where only the user's code knows that. *samples* is how many there are, None where that is unknown; they
    follow each other unless they are *scattered* over the epoch.
    """

    kind: Literal["lost", "repeated", "unknown"]
    sample: int
    epoch: int
    place: int
    index: int | None
    samples: int | None
    why: str
    is_scattered: bool = False

    def __str__(self) -> str:
        what = {"lost": "was never trained", "repeated": "was trained twice", "unknown": "is not accounted for"}[
            self.kind
        ]
        index = "index unknown" if self.index is None else f"index {self.index:,}"
        more = "" if self.samples in (None, 1) else f", the first of {self.samples:,} samples,"
        return f"The sample at place {self.place:,} of epoch {self.epoch} ({index}){more} {what}: {self.why}"


def faults_of(run: AuditedRun, /) -> list[Fault]:
    """What *run* has not trained exactly once, in the order of its samples; nothing where all is proven."""
    found = list[Fault]()
    first = run.kept[0]
    if first.begins.consumed_samples:
        why = f"the audit begins at sample {first.begins.consumed_samples:,}."
        found.append(_fault("unknown", Position(), first.begins.consumed_samples, first.session, why))
    for number, (kept, following) in enumerate(zip_longest(run.kept, run.kept[1:])):
        found += _within(kept, number, is_last=following is None)
        if following is not None:
            found += _between(kept, following, number)
    return sorted(found, key=lambda fault: fault.sample)


def _within(kept: Kept, number: int, *, is_last: bool) -> Iterator[Fault]:
    """Faults of the ranks of one session, up to where it counts."""
    session, ends = kept.session, kept.ends
    room = _step_at(session.stretch, ends) if is_last else 0  # a kill may come between two ranks
    for rank in session.missing_ranks:
        if ends.consumed_samples - session.begins.consumed_samples > room:
            why = f"rank {rank} of {session.size} has left no record of session {number}."
            yield _fault("unknown", session.begins, None, session, why, rank=rank)
    for record in session.records:
        missing = ends.consumed_samples - record.read.consumed_samples
        if missing > room:
            why = f"rank {record.rank} of {session.size} ended there in session {number}, and others went on."
            yield _fault("lost", record.read, None, session, why, rank=record.rank)
        yield from _passed_over(record, kept, number)


def _passed_over(record: Record, kept: Kept, number: int) -> Iterator[Fault]:
    for at, batches in record.passed_over:
        if at.consumed_samples < kept.ends.consumed_samples:
            why = f"it could not be loaded on rank {record.rank} in session {number}, and the loop went on without it."
            samples = batches * record.stretch.micro_batch_size
            yield replace(_fault("lost", at, samples, kept.session, why, rank=record.rank), samples=samples)


def _between(kept: Kept, following: Kept, number: int) -> Iterator[Fault]:
    """Faults where the session after *kept* begins."""
    session, begins = kept.session, following.begins
    gap = begins.consumed_samples - kept.ends.consumed_samples
    if gap:
        why = f"session {number} has trained up to it, and session {number + 1} went on {gap:,} samples later."
        yield _fault("lost", kept.ends, gap, session, why)
        return
    reached = _position_at(session.stretch, begins.consumed_samples)
    same = (
        () if reached is None else (reached, *(_canonical(each.session.stretch, reached) for each in (kept, following)))
    )
    if reached is not None and begins not in same:
        why = (
            f"session {number} has trained up to epoch {reached.epoch}, offset {reached.offset:,}, and session {number + 1} "
            f"went on at epoch {begins.epoch}, offset {begins.offset:,}."
        )
        is_later = (begins.epoch, begins.offset) > (reached.epoch, reached.offset)
        yield _fault("lost" if is_later else "repeated", reached if is_later else begins, None, session, why)
        return
    yield from _in_another_order(kept, following, number)


def _in_another_order(kept: Kept, following: Kept, number: int) -> Iterator[Fault]:
    """The first sample that an epoch repeats or loses, whose order changes in its middle."""
    then, now, at = kept.session.order, following.session.order, following.begins
    if then is None or now is None or not at.offset or _same(then, now):
        return
    old, new = known_order(then, kept.session.stretch), known_order(now, following.session.stretch)
    why = f"session {number + 1} went on in another order: {_words(then)} before, {_words(now)} now."
    if old is None or new is None or max(len(old), len(new)) > _LONGEST:
        yield Fault("unknown", at.consumed_samples, at.epoch, at.offset, None, None, why)
        return
    trained = np.asarray(old.indices(at.epoch, 0, at.offset), np.int64)
    rest = np.asarray(new.indices(at.epoch, at.offset, len(new)), np.int64)
    again = np.flatnonzero(np.isin(rest, trained))
    if again.size:
        first = int(again[0])
        place, index, samples = at.offset + first, int(rest[first]), int(again.size)
        yield Fault("repeated", at.consumed_samples + first, at.epoch, place, index, samples, why, is_scattered=True)
    skipped = np.setdiff1d(np.setdiff1d(np.arange(len(new)), trained), rest)
    if skipped.size:
        index = int(skipped[0])
        place = _place_of(new, at.epoch, index)
        yield Fault(
            "lost",
            at.consumed_samples - at.offset + place,
            at.epoch,
            place,
            index,
            int(skipped.size),
            why,
            is_scattered=True,
        )


def _same(one: Identity, other: Identity) -> bool:
    return (one.kind, one.length, one.seed) == (other.kind, other.length, other.seed)


def _words(order: Identity) -> str:
    seed = "" if order.seed is None else f", seed {order.seed}"
    return f"{order.kind}, {order.length:,} samples{seed}"


def _fault(
    kind: Literal["lost", "repeated", "unknown"],
    at: Position,
    samples: int | None,
    session: Session,
    why: str,
    *,
    rank: int | None = None,
) -> Fault:
    """The fault that begins at *at*, or with the first sample there that is *rank*'s."""
    stretch = session.stretch
    epoch, offset = at.epoch, at.offset
    if stretch.length >= UNBOUNDED:  # a data sampler's count runs on over the ends of epochs
        offset = at.consumed_samples
    elif not session.stretch.batching.batches_left(offset):
        epoch, offset = epoch + 1, 0
    order = None if session.order is None else known_order(session.order, stretch)
    index = None
    if order is not None and offset < len(order):
        place = _first_of_rank(order, stretch, epoch, offset, rank)
        index, offset = int(order.indices(epoch, place, place + 1)[0]), place
    return Fault(kind, at.consumed_samples + max(0, offset - at.offset), epoch, offset, index, samples, why)


def _first_of_rank(order: Order, stretch: Stretch, epoch: int, offset: int, rank: int | None) -> int:
    """The place of the first sample from *offset* on that is *rank*'s."""
    if rank is None or stretch.length >= UNBOUNDED:
        return offset
    feed = OrderFeed(order, stretch.batching, Shard(rank, stretch.data_parallel_size))
    for batch in feed.batches(epoch, offset, 1):
        return _place_of(order, epoch, int(batch[0]))
    return offset


def _place_of(order: Order, epoch: int, index: int) -> int:
    if isinstance(order, (Sequential, Shuffled)):
        return order.place_of(epoch, index)
    return int(np.flatnonzero(np.asarray(order.indices(epoch, 0, len(order))) == index)[0])


def _step_at(stretch: Stretch, at: Position) -> int:
    """The samples of the optimizer step that begins at *at*, or of a batch where its steps are unknown."""
    try:
        steps = stretch.steps_within(at.consumed_samples - stretch.sample)
        after = stretch.position_after(steps + 1).consumed_samples
        return max(stretch.batching.batch_size, after - at.consumed_samples)
    except ResumptionError:
        return stretch.batching.batch_size


def _position_at(stretch: Stretch, consumed_samples: int) -> Position | None:
    """Where a session in *stretch* is at so many consumed samples; None where its epochs are unknown."""
    batching = stretch.batching
    if stretch.length >= UNBOUNDED:
        return None
    if stretch.schedule is not None and not stretch.is_unknown:
        return stretch.position_after(stretch.steps_within(consumed_samples - stretch.sample))
    below, batches = 0, -(-(consumed_samples - stretch.sample) // batching.batch_size)
    while batching.advance(stretch.begins, batches).consumed_samples < consumed_samples:
        below, batches = batches, 2 * batches
    while batches - below > 1:
        middle = (below + batches) // 2
        is_before = batching.advance(stretch.begins, middle).consumed_samples < consumed_samples
        below, batches = (middle, batches) if is_before else (below, middle)
    return batching.advance(stretch.begins, batches)


def _canonical(stretch: Stretch, at: Position) -> Position:
    """How a run in *stretch* writes *at*: where no step is left in its epoch, as the start of the next."""
    if stretch.length >= UNBOUNDED:
        return at
    return (stretch.batching if stretch.is_unknown else stretch.plan).canonical(at)
