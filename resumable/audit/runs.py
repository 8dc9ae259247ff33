"""Which sessions of an audit follow each other: a run is a chain of sessions, and of each counts what the next one goes on from.

    session 0   ████████▒▒ ✕              ▒ undone: the next session goes on before it
    session 1           ██████▒ ✕
    session 2                 █████████
    kept        ████████│█████│█████████

A session that begins at the first sample begins a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from resumable.audit.records import Record
from resumable.history import known_order
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Stretch

__all__ = ["AuditedRun", "Kept", "Session", "runs_of"]


@dataclass(frozen=True, slots=True)
class Session:
    """What all ranks trained from one place on, in one configuration."""

    records: tuple[Record, ...]

    @property
    def stretch(self) -> Stretch:
        """The configuration, and where the session began."""
        return self.records[0].stretch

    @property
    def begins(self) -> Position:
        """Where the session began."""
        return self.stretch.begins

    @property
    def order(self) -> Identity | None:
        """What its order depends on."""
        return self.records[0].order

    @property
    def size(self) -> int:
        """The number of data-parallel ranks."""
        return self.records[0].size

    @property
    def trained(self) -> Position:
        """The last position that a rank has trained up to."""
        return max((record.trained for record in self.records), key=lambda at: at.consumed_samples)

    @property
    def was_killed(self) -> bool:
        """Whether a rank did not end by itself, and is no longer there."""
        return not all(record.has_ended or record.is_running for record in self.records)

    @property
    def is_running(self) -> bool:
        """Whether the process of a rank is there, and has not ended the session."""
        return any(record.is_running for record in self.records)

    @property
    def missing_ranks(self) -> list[int]:
        """Ranks that have left no record."""
        return sorted(set(range(self.size)) - {record.rank for record in self.records})

    def takes(self, record: Record) -> bool:
        """Whether *record* is that of another rank of this session."""
        mine = self.records[0]
        is_same = (mine.stretch, mine.order, mine.size) == (record.stretch, record.order, record.size)
        return is_same and all((each.rank, each.process) != (record.rank, record.process) for each in self.records)


@dataclass(frozen=True, slots=True)
class Kept:
    """What of *session* counts: from where it began up to *ends*, where the next one goes on."""

    session: Session
    ends: Position

    @property
    def begins(self) -> Position:
        """Where the session began."""
        return self.session.begins


@dataclass(frozen=True, slots=True)
class AuditedRun:
    """A run: all its *sessions*, and what of them is *kept*."""

    sessions: tuple[Session, ...]
    kept: tuple[Kept, ...]

    @property
    def ends(self) -> Position:
        """Up to where the run is trained."""
        return self.kept[-1].ends

    @property
    def begins(self) -> Position:
        """Where the audit of the run begins."""
        return self.kept[0].begins

    @property
    def verdict(self) -> str:
        """What is proven where there is no fault: of a user's own order, that each of its places came once."""
        orders = [(kept.session.order, kept.session.stretch) for kept in self.kept]
        is_known = all(order is not None and known_order(order, stretch) is not None for order, stretch in orders)
        what = "every sample" if is_known else "every place of its own order"
        return f"Exactly once: {what} up to there was trained, and none twice."

    @property
    def undone_samples(self) -> int:
        """Samples that were trained and are undone, since a session went on before them."""
        trained = sum(each.trained.consumed_samples - each.begins.consumed_samples for each in self.sessions)
        return max(0, trained - sum(each.ends.consumed_samples - each.begins.consumed_samples for each in self.kept))

    def followed_by(self, session: Session) -> AuditedRun:
        """The run once it has gone on with *session*; what lies after its beginning is undone."""
        at = session.begins.consumed_samples
        before = [each for each in self.kept if each.begins.consumed_samples < at]
        if before:
            last = before.pop()
            ends = last.ends if last.ends.consumed_samples < at else session.begins
            before.append(replace(last, ends=ends))
        return AuditedRun((*self.sessions, session), (*before, Kept(session, session.trained)))


def runs_of(records: Iterable[Record], /) -> list[AuditedRun]:
    """The runs that *records* belong to, in the order in which they began."""
    runs = list[AuditedRun]()
    for session in _sessions(records):
        number = _run_before(runs, session)
        if number is None:
            runs.append(AuditedRun((session,), (Kept(session, session.trained),)))
        else:
            runs[number] = runs[number].followed_by(session)
    return runs


def _sessions(records: Iterable[Record]) -> list[Session]:
    """The ranks of each session together, in the order in which the first of them began."""
    sessions = list[Session]()
    for record in sorted(records, key=lambda each: each.time):
        at = next((at for at in reversed(range(len(sessions))) if sessions[at].takes(record)), None)
        if at is None:
            sessions.append(Session((record,)))
        else:
            sessions[at] = Session((*sessions[at].records, record))
    return sessions


def _run_before(runs: Sequence[AuditedRun], session: Session) -> int | None:
    """The run that *session* goes on with: the last one that has come so far, or the last one; None if it begins one."""
    at = session.begins.consumed_samples
    if not runs or not (at or runs[-1].ends == runs[-1].begins):  # which has trained nothing that counts
        return None
    reached = [number for number, run in enumerate(runs) if run.ends.consumed_samples >= at]
    return reached[-1] if reached else len(runs) - 1
