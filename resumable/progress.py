"""The inner part of a `ResumptionState`: what was loaded, and the progress that counts what was trained since.

loaded: Snapshot ──┐
                   ├── Tracker ──► position, ledger, verdict, state dict
Progress? ─────────┘    without a progress, everything is as it was loaded

Progress   of a loop            what its loader yielded or the loop committed   loading.loop_progress
           of a data sampler    its count over a trainer's steps                data_sampler.progress
           of Lightning         its loop counters                               adapters.lightning
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from resumable.errors import MismatchError, ResumptionError
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.protocols import AllGather, Order
from resumable.saved.agreement import Part, agreed
from resumable.saved.audit_log import AuditLog
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.snapshot import Snapshot, dump, parse
from resumable.verdict import Verdict

__all__ = ["LedgerAt", "Progress", "Tracker", "undo_of"]

_LOG: Final = logging.getLogger("resumable")

LedgerAt: TypeAlias = Callable[[Stretch | None, int], Ledger]
"""The ledger of a run that trains in a stretch, None where that is not known, and has consumed so many samples."""


class Progress(Protocol):
    """What a `Tracker` asks of the object that counts the training's progress.

    The defaults are those of a progress that does not depend on the passes of a loader.
    """

    must_tell: bool = False
    """Whether the next pass must tell the user which epoch it is."""

    audit: AuditLog | None = None
    """What writes down what is trained; None where nobody asks for it."""

    @property
    def is_running(self) -> bool:
        """Whether a pass is under way, whose batches a position loaded now would not change."""
        return False

    @property
    def may_load(self) -> bool:
        """Whether a position can be loaded now."""
        return not self.is_running

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase."""
        return 0

    @property
    def position(self) -> Position:
        """The trained position."""
        ...

    @property
    def order(self) -> Identity | None:
        """What the order of the samples depends on; None where that is unknown."""
        return None

    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        """Everything that is saved. Epoch and offset are None where only the samples are counted."""
        ...

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*; raise and change nothing where that is impossible."""
        ...

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains again, so that all ranks get equally many."""
        return 0

    def commit(self, batches: int | None = None) -> None:
        """Everything yielded so far is trained, or *batches* further batches of it."""
        return

    def rebase(self) -> None:
        """Count from the present position on, without moving it."""
        return

    @property
    def present_stretch(self) -> Stretch | None:
        """The present configuration, from the place on where it began or was loaded; None before it is known."""
        return None

    @property
    def part(self) -> Part | None:
        """Which part of the data this process loads; None where that is unknown."""
        return None

    def restore_point(self) -> Callable[[], object]:
        """What puts back all that a load changes from now on."""
        return undo_of(self)

    def note_saved(self) -> None:
        """The present position is saved."""
        return

    def resumed(self) -> None:
        """A loaded run goes on here, and the user has not asked at which epoch."""
        return

    def settle(self) -> None:
        """Go to where the next pass would begin, because another loader takes over."""
        return


def undo_of(*things: object) -> Callable[[], None]:
    """What gives *things* back the attributes that they have now.

    >>> tracker = Tracker()
    >>> undo = undo_of(tracker)
    >>> tracker.load({"consumed_samples": 640})
    >>> undo()
    >>> tracker.position
    Position(consumed_samples=0, epoch=0, offset=0)
    """
    kept = [(vars(thing), vars(thing).copy()) for thing in things]

    def undo() -> None:
        for now, before in kept:
            now.clear()
            now.update(before)

    return undo


class Tracker:
    """What was loaded, and the progress that has counted since.

    >>> tracker = Tracker()
    >>> tracker.load({"consumed_samples": 640})
    >>> tracker.position
    Position(consumed_samples=640, epoch=0, offset=0)
    """

    def __init__(self, progress: Progress | None = None, agreement: AllGather | None = None) -> None:
        self.progress = progress
        self.agreement = agreement
        self.verdict: Verdict = Verdict()
        """How exactly the last state goes on that was loaded, or refused."""
        self.audit: AuditLog | None = None
        """What writes down what is trained here; None where nobody asks for it."""
        self.logs: bool = False  # to a trainer's loggers
        self._saved = Snapshot()
        self._noted: tuple[Stretch, Ledger] | None = None
        self._is_resume = False
        self._is_asked = False

    # -- where the run is

    def asked(self) -> Position:
        """The trained position, for the user, who thereby knows the epoch."""
        self._is_told()
        return self.position

    def _is_told(self) -> None:
        self._is_asked = True
        if self.progress is not None:
            self.progress.must_tell = False

    @property
    def position(self) -> Position:
        """The trained position; epoch and offset are 0 while only the consumed samples are known."""
        if self.progress is not None:
            return self.progress.position
        return self._saved.position or Position(self._saved.consumed_samples)

    def _ledger(self, stretch: Stretch | None, consumed_samples: int) -> Ledger:
        """The loaded ledger, and the present stretch once it has trained a sample: loading and saving adds nothing."""
        if stretch is None or consumed_samples <= stretch.sample:
            return self._saved.ledger
        if self._noted is None or self._noted[0] is not stretch:
            self._noted = (stretch, self._saved.ledger.going_on(stretch))
        return self._noted[1]

    def snapshot(self, ledger_at: LedgerAt | None = None) -> Snapshot:
        """The state as a value, its ledger as *ledger_at* gives it; without one, the run's own."""
        saved = self._saved
        if self.progress is None:
            return saved
        now = self.progress.read(ledger_at or self._ledger)
        if now.epoch is None and now.consumed_samples == saved.consumed_samples:  # nothing was trained since the load
            return now._replace(epoch=saved.epoch, offset=saved.offset)
        return now

    def agreed_state_dict(self) -> dict[str, Any]:
        """As `state_dict`, for the user, once all ranks have agreed on it."""
        if self.agreement is not None:
            agreed(self.agreement, self._outcome)
        self._is_told()
        return self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """A new dict of JSON types; no part of it is shared with another."""
        if self.progress is not None:
            self.progress.note_saved()
        self.note_trained()
        return dump(self.snapshot())

    def note_trained(self) -> None:
        """Write down how far the training has come, where there is an audit."""
        if self.audit is not None and self.progress is not None:
            self.audit.note(self.progress)

    def _outcome(self) -> tuple[dict[str, Any], Part | None]:
        """What all ranks compare: the state, and which part of the data is this rank's."""
        return dump(self.snapshot().on_all_ranks), None if self.progress is None else self.progress.part

    def describe(self) -> str:
        """The position and the verdict in one line; see `ResumptionState.describe`."""
        loaded = self._saved.ledger
        saved = self.snapshot(lambda stretch, _: loaded if stretch is None else Ledger((stretch,)))
        verdict = str(self.verdict).partition("\n")[0]
        return ", ".join([*saved.ledger.words_at(saved.position), f"{saved.consumed_samples} samples", verdict])

    def history(self) -> tuple[Snapshot, Order | None]:
        """The state with the present stretch in its ledger, trained or not; and the user's order, where it is at hand."""
        loaded = self._saved.ledger
        saved = self.snapshot(lambda stretch, _: loaded if stretch is None else loaded.going_on(stretch))
        order: Any = getattr(getattr(self.progress, "feed", None), "order", None)
        return saved, order

    def judge(self, verdict: Verdict, /) -> None:
        """Take over how exactly the loaded state goes on, where that is known only after the load."""
        self.verdict = verdict

    # -- loading

    def load(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state; with an agreement, only if all ranks can load the same."""
        if self.agreement is None:
            self._load(state_dict)
        else:
            agreed(self.agreement, self._outcome, partial(self._load, state_dict), undo=self.restore_point())
        self._is_asked = False
        self._log_resume()

    def restore_point(self) -> Callable[[], None]:
        """What undoes each load, and each connection of another progress, from now on."""
        undo = undo_of(self)
        of_progress = None if self.progress is None else self.progress.restore_point()

        def restore() -> None:
            undo()
            if of_progress is not None:
                of_progress()

        return restore

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        saved = parse(state_dict)
        if self.progress is not None and not self.progress.may_load:
            raise ResumptionError(
                "A state cannot be loaded while the loader is being iterated: other batches are under way.",
                [("position", self.position)],
                "Load it before the loop, or leave the loop first. Nothing was loaded.",
            )
        self._go_on(saved, self.progress, is_resume=True)

    def load_snapshot(self, saved: Snapshot, /, *, is_resume: bool = False) -> None:
        """Go on from a state that is a value already. A resume is logged as soon as there is a progress."""
        self._go_on(saved, self.progress, is_resume=is_resume)
        self._log_resume()

    def connect(self, progress: Progress, /) -> None:
        """Count with *progress* from the present position on; what was loaded before is loaded into it.

        Raises:
            MismatchError: if the position cannot go on exactly in the progress's order; then nothing has changed.
            AgreementError: if other ranks have connected other data; nothing has changed then, either.
        """
        if self.agreement is None:
            self._connect(progress)
        else:
            undo, of_progress = self.restore_point(), progress.restore_point()
            agreed(
                self.agreement, self._outcome, partial(self._connect, progress), undo=lambda: (of_progress(), undo())
            )
        self._log_resume()

    def _connect(self, progress: Progress) -> None:
        self._go_on(self.snapshot(), progress, is_resume=self._is_resume)

    def _go_on(self, saved: Snapshot, progress: Progress | None, *, is_resume: bool) -> None:
        """Count with *progress* from *saved* on. Of a position that it refuses only the verdict is kept."""
        if progress is not None:
            try:
                self.verdict = progress.load(saved)
            except MismatchError as error:
                self.verdict = error.verdict or self.verdict
                raise
            saved = _of_its_order(saved, progress.order)
        self._is_resume = is_resume
        self._take(saved, progress)

    # -- who counts

    def follow(self, progress: Progress, loaded: Snapshot | None = None, /) -> Snapshot:
        """Count with *progress* from its own position, which it has loaded; without that, what was loaded stays, and is returned."""
        before = self._saved
        self._take(loaded or before, progress)
        return before

    def fold(self) -> None:
        """Take what was trained so far as loaded: the progress goes on in another stretch."""
        self._saved, self._noted = self.snapshot(), None

    def follow_or_connect(self, progress: Progress, /) -> bool:
        """Follow *progress* if nothing was trained or loaded before, which is returned; otherwise connect it."""
        is_fresh = self.snapshot() == Snapshot()
        if is_fresh:
            self.follow(progress)
        else:
            self.connect(progress)
        return is_fresh

    def switch_to(self, progress: Progress, /, *, later: bool = False) -> None:
        """Let *progress* count from where the present one would begin its next pass.

        With *later*, a progress that is running goes on counting until the other one begins.
        """
        if self.progress is progress or (later and self.progress is not None and self.progress.is_running):
            return
        if self.progress is not None:
            self.progress.settle()
        self.connect(progress)

    def end_run(self, trained_by: type[Any] | tuple[type[Any], ...], /) -> None:
        """Disconnect the progress. If it is a *trained_by*, its run is over: the next begins at the first sample.

        No other progress counts a trainer's training: after one, the position is again the one that was loaded.
        """
        is_over = isinstance(self.progress, trained_by)
        self._is_resume = self._is_resume and not is_over
        self._take(Snapshot() if is_over else self._saved)
        self.verdict = Verdict()

    def return_to(self, progress: Progress, at: Snapshot | None = None, /) -> None:
        """Let *progress*, that of a loop, count again, after a trainer has: from *at*, or from the present position on."""
        now = self.snapshot() if at is None else at
        progress.load(now)
        progress.must_tell = False
        self._take(now, progress)

    @property
    def loaded(self) -> Snapshot:
        """The state as it was loaded, or kept when the progress changed."""
        return self._saved

    def disconnect(self) -> None:
        """Keep the present position without the progress that counted it, as a copy or a pickle does."""
        self._take(self.snapshot())

    def __getstate__(self) -> dict[str, object]:
        audit = None if self.audit is None else copy(self.audit)  # with a file of its own
        return {"_saved": self.snapshot(), "verdict": self.verdict, "audit": audit}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # a copy is connected to nothing, and asks no other rank
        vars(self).update(kept)

    def _take(self, saved: Snapshot, progress: Progress | None = None) -> None:
        self._saved, self.progress, self._noted = saved, progress, None
        if self.audit is not None:
            self.audit.moved = True
        if progress is not None:
            progress.audit = self.audit

    def _log_resume(self) -> None:
        """Log a resume once, when there is a progress and no rank can refuse it any more."""
        if self._is_resume and self.progress is not None:
            self._is_resume = False
            if not self._is_asked:
                self.progress.resumed()
            if _LOG.isEnabledFor(logging.INFO):
                _LOG.info("resumed at %s", self.describe())


def _of_its_order(saved: Snapshot, now: Identity | None) -> Snapshot:
    """*saved*, whose ledger names its order where a run goes on in another kind or seed: its steps are known by it."""
    then = saved.order
    if then is None or now is None or (then.kind, then.seed) == (now.kind, now.seed):
        return saved
    return saved._replace(ledger=saved.ledger.in_order(then))
