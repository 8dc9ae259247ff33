"""How far a loop has read, and how far it has trained: two positions in one order.

    trained position      read so far
      ▼                     ▼
    ──┴──┬──┬──┬──┬──┬──┬──┬┴─────►      prefetched batches lie further right and do not count
         └─ uncommitted ───┘

In a loop that calls `commit()` after its optimizer steps, what is committed is trained. In any other loop, every
batch that was yielded is trained, with one exception: a pass that was left after a single batch, with nothing saved
since, was a look at the data (`next(iter(loader))`) and moves nothing.

While a pass is under way, further iterators move nothing, whatever they yield: one pass counts until its iterator is
let go of. An iterator that has yielded a single batch gives way to one that yields more.

Where a schedule groups batches into optimizer steps, the trained position is always where a step begins: a step
counts when its last batch was yielded, or is committed then.

A framework that accumulates batches in windows knows which are trained, and says so with `note_window`: a `commit()`
of the loop's own then adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from resumable.errors import ResumptionError, warn
from resumable.position import Position
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from resumable.steps.step_plan import Step, StepPlan

__all__ = ["Cursor", "Pass", "more_than_yielded"]

_LOOKED_TWICE = (
    "Two passes were left after one batch: such a pass is taken for a look at the data, and the next one begins with "
    "the same batch.\nKeep one iterator, or call loader.state.commit() after the step to train single batches."
)

_TWO_ITERATORS = (
    "A second iterator of this loader has yielded batches that do not count: an earlier one is still alive, and the "
    "position that is saved is where that one stands.\nIf the later one trains, let go of the earlier one before it "
    "begins (`del iterator`); if it only looks at the data, all is well."
)
_LEFT_EARLY = (
    "Beside an iterator of this loader that had yielded a single batch, a later one was left after a few: the position "
    "counts those of the later one as trained, and not that batch.\nIf the earlier one trains, call loader.state.commit() "
    "after each step, and looks at the data move nothing; if the later one trained, let go of the earlier one before it "
    "begins (`del iterator`)."
)
_GOES_ON = (
    "An iterator of this loader goes on that is older than the last one: the position is again where this one stands, and "
    "what the later one has yielded does not count.\nIf the later one has trained, let go of the earlier one (`del "
    "iterator`); if it only looked at the data, all is well from here on."
)


class Pass:
    """One iteration over the rest of an epoch. The loader adds to *taken* as it yields.

    With a schedule, *step* is the step that the last batch belongs to, and what was taken before it. *trains*: it is known
    to be no look at the data, however few batches it yields.

    *mark* is where an audit reads how many batches it has yielded, while it counts.

    *failed* is None except after a batch that could not be loaded: it is how many batches such errors have passed over
    since the last one that was yielded. They count as taken once the loop goes on to the next.
    """

    def __init__(self, begun_at: Position, /) -> None:
        self.begun_at: Position = begun_at
        self.taken: int = 0
        self.failed: int | None = None
        self.ended: bool = False
        self.step: tuple[Step, int] | None = None
        self.counts: bool = True
        self.may_count: bool = True
        self.trains: bool = False
        self.iterator: Callable[[], object] = _nothing
        self.mark: memoryview | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "iterator": _nothing, "mark": None}  # nobody iterates a copy

    def is_running(self) -> bool:
        """Whether somebody holds its iterator, which may yield more. A caught error may hold one that has failed."""
        return not self.ended and self.failed is None and self.iterator() is not None

    @property
    def of_step(self) -> int:
        """Batches that were yielded of the present step."""
        return self.taken if self.step is None else self.taken - self.step[1]

    @property
    def left_of_step(self) -> int:
        """Batches that the present step still takes; 0 where the next batch begins a step."""
        return 0 if self.step is None else self.step[0].batches - self.of_step


class Cursor:
    """The reading place and the trained position of one loader.

    >>> cursor = Cursor(BatchPlan(length=10, batch_size=4))
    >>> this = cursor.begin()
    >>> this.taken += 1
    >>> cursor.position
    Position(consumed_samples=4, epoch=0, offset=4)
    """

    def __init__(
        self, plan: BatchPlan | StepPlan, position: Position = Position(), /, *, commits: bool = False
    ) -> None:
        self.plan: BatchPlan | StepPlan = plan
        self.current: Pass = Pass(position)
        self._others: list[Pass] = []
        self.seek(position, commits=commits)

    def seek(self, position: Position, /, *, commits: bool) -> None:
        """Stand at *position*, with nothing read beyond it."""
        self.commits: bool = commits
        self.in_window: bool | None = None
        self.is_committed_by_loop: bool = False
        for each in (*self._others, self.current):
            each.counts = each.may_count = False
        self.current = Pass(self.plan.canonical(position))
        self._committed = self.current.begun_at
        self._reads_ahead = False
        self._saved_at, self._is_kept, self._has_replaced = -1, False, False
        self.looks: int = 0
        self._beside = (0, 0)

    @property
    def read_position(self) -> Position:
        """The position after the last batch that was yielded; with a schedule, after the last complete step."""
        this = self.current
        if this.step is None:
            return self.plan.advance(this.begun_at, this.taken)
        step = this.step[0]
        return step.ends if this.of_step == step.batches else step.begins

    @property
    def step_batches(self) -> int:
        """Batches of the optimizer step that is being trained, or of the next one where that is committed or over."""
        this = self.current
        if self._reads_ahead:
            return self.plan.step_batches(self._committed)
        if this.step is not None and this.is_running():
            step, _ = this.step
            if not (self.commits and self._committed == step.ends):
                return step.batches
        return self.plan.step_batches(self.next_start)

    @property
    def position(self) -> Position:
        """The trained position."""
        if self.commits:
            return self._committed
        this = self.current  # `read_position`, written out: a state saved after every batch asks for it each time
        return self.plan.advance(this.begun_at, this.taken) if this.step is None else self.read_position

    def commit(self, batches: int | None = None) -> None:
        """Everything yielded so far is trained, or *batches* batches more; from now on only what is committed counts.

        Raises:
            ResumptionError: in the middle of a step of a schedule, or for more batches than were yielded.
        """
        self.is_committed_by_loop = True
        if self.in_window or (self.in_window is not None and batches is not None):
            return
        self._commit(batches)

    def _commit(self, batches: int | None = None) -> None:
        if self._others and not (self._is_kept or self.current.is_running()):
            held = [each for each in self._others if each.taken and each.may_count and each.is_running()]
            if held:  # the later pass is over, and nobody has said that it trained
                self._count_by(held[0])
        self._tell_if_left_early()
        this, before = self.current, self._committed
        if batches is not None:
            self._committed = self._after(batches)
        elif this.step is not None and 0 < this.of_step < this.step[0].batches:
            raise _within_step(this.step[0].batches, "yielded of them", this.of_step)
        else:
            self._committed = self.read_position
        self.commits, self._reads_ahead = True, batches is not None
        if before == self._committed:
            self._tell_of_others()
        else:
            self._beside = (0, min(0, self._beside[1]))
        self.note_saved()

    def note_window(self, *, is_trained: bool) -> None:
        """The last batch that was yielded is in a window; *is_trained* ends it. From now on only such windows count."""
        if is_trained:
            self._commit()
        elif not self.commits:
            this = self.current
            self._committed = (
                self.plan.advance(this.begun_at, this.taken - 1) if this.step is None else self.read_position
            )
            self.commits = True
        self.in_window = not is_trained

    def forget_uncommitted(self) -> None:
        """An endless iterator begins: what one before it yielded and nobody committed comes again, from a past epoch too."""
        if self.commits and self.current.trains and not self.current.is_running():
            self._count_by(Pass(self._committed))

    def note_training(self) -> None:
        """The pass that has just begun trains, and is no look at the data."""
        if not self.current.taken:
            self.current.trains = True

    def forget_windows(self) -> None:
        """No window has come: what is yielded is trained."""
        self.commits, self.in_window = False, None

    def _after(self, batches: int) -> Position:
        """Where the first *batches* batches lead that follow the last commit. All passes since then are one sequence."""
        at, read, plan = self._committed, self.read_position, self.plan
        if not self.commits and at != self.current.begun_at:
            raise ResumptionError(
                "The first commit(batches=...) came after a pass that counted as trained without one.",
                [("consumed_samples", self.current.begun_at.consumed_samples), ("batches", batches)],
                "Call commit() before, where everything that was yielded is trained, such as before the loop.",
            )
        if isinstance(plan, BatchPlan):
            at = plan.advance(at, batches)
        else:
            left = batches
            while left and at.consumed_samples <= read.consumed_samples:
                step = plan.step_batches(at)
                if left < step:
                    raise _within_step(step, "committed of them", left)
                at, left = next(plan.steps(at)).ends, left - step
        if at.consumed_samples > read.consumed_samples:
            raise more_than_yielded(
                batches, ("consumed_samples with them", at.consumed_samples), ("of all yielded", read.consumed_samples)
            )
        return at

    def note_saved(self) -> None:
        """A saved position was handed out: what it counts as trained stays counted."""
        self._tell_if_left_early()
        self._saved_at = self.current.taken
        if self._others and self.current.is_running():
            self._is_kept = True
        if self._beside[1] > 1 and not self.commits:
            self._tell_of_others()

    def _tell_if_left_early(self) -> None:
        """Warn once where nobody can tell whether the present pass trained or was a look beside a pass that trains."""
        this = self.current
        is_known = self.commits or self._is_kept or this.ended or self._saved_at > 0
        if self._has_replaced and not is_known and this.iterator() is None:
            self._has_replaced = False
            warn(_LEFT_EARLY)

    def _tell_of_others(self) -> None:
        at, batches = self._beside
        if batches > 1 and at == self.current.taken:
            self._beside = (0, -UNBOUNDED)  # said once
            warn(_TWO_ITERATORS)

    @property
    def next_start(self) -> Position:
        """Where the next pass begins: at the trained position, or in the next epoch where the last pass has ended."""
        last = self.current
        if last.ended or not last.taken:
            return self.read_position
        if self.commits:
            return self._committed
        return last.begun_at if self._was_a_look else self.read_position

    @property
    def _was_a_look(self) -> bool:
        last = self.current
        return last.taken == 1 and not (last.ended or last.trains or self.commits) and self._saved_at != 1

    @property
    def is_in_pass(self) -> bool:
        """Whether a pass is under way that has yielded a batch: another one that begins moves nothing."""
        return self.current.taken > 0 and self.current.is_running()

    def begin(self) -> Pass:
        """Open a pass at `next_start`; warn where one batch is looked at again and again."""
        if self.is_in_pass:
            this = Pass(self.next_start)
            this.counts = False
            self._others.append(this)
            return this
        self.leave()
        if self.looks == 2:
            warn(_LOOKED_TWICE)
        return self.current

    def leave(self) -> None:
        """Let the present pass be over: the next one begins at `next_start`."""
        if self.current.taken:
            self._tell_if_left_early()
            self.looks = self.looks + 1 if self._was_a_look else 0
        self._count_by(Pass(self.next_start))

    def _count_by(self, this: Pass) -> None:
        """Let *this* be the pass that counts; the one before may still come back."""
        last, self.current = self.current, this
        self._others = [each for each in (*self._others, last) if each is not this and each.iterator() is not None]
        last.counts, this.counts = False, True
        self._saved_at, self._is_kept, self._has_replaced = -1, False, False

    def note_beside(self, this: Pass) -> None:
        """*this* has yielded a batch, and another pass counts: it goes on counting, or gives way."""
        if self.gives_way_to(this):
            self._count_by(this)
            self._has_replaced = True
        else:
            self.count_beside(this)

    def count_beside(self, this: Pass) -> None:
        """Count a batch that does not count, of a pass that never will."""
        if not this.may_count:
            at, batches = self._beside
            self._beside = (self.current.taken, batches + 1 if at == self.current.taken or batches < 0 else 1)

    def gives_way_to(self, this: Pass) -> bool:
        """Whether *this* counts from now on, where it may; if it never will, that is noted in it."""
        last = self.current
        if not this.may_count:
            return False
        if last.is_running():
            this.may_count = last.taken < (1 if last.trains else 2)
            return this.may_count and last.taken < this.taken
        if this.taken < 2 or last.taken < 2:
            return True
        # the earlier pass goes on after the later one: that was training if it was saved or committed on its way
        this.may_count = not self._is_kept
        if this.may_count and (last.ended or self._saved_at > 0):
            warn(_GOES_ON)
        return this.may_count


def _within_step(batches: int, what: str, number: int) -> ResumptionError:
    return ResumptionError(
        "commit() came in the middle of an optimizer step, which the schedule gives more micro batches.",
        [("micro batches of the step", batches), (what, number)],
        "Accumulate loader.num_microbatches of them, then step and commit.",
    )


def more_than_yielded(batches: int, *values: tuple[str, int]) -> ResumptionError:
    """The error for a commit of batches that nobody was given."""
    return ResumptionError(
        "More batches are committed than were yielded since the last commit.",
        [("batches", batches), *values],
        "Commit a batch once, after it is trained, with the loader that yielded it.",
    )


def _nothing() -> None:
    return None
