"""How far a loop has read, and how far it has trained: two positions in one order.

    trained position      read so far
      ▼                     ▼
    ──┴──┬──┬──┬──┬──┬──┬──┬┴─────►      prefetched batches lie further right and do not count
         └─ uncommitted ───┘

In a loop that calls `commit()` after its optimizer steps, what is committed is trained. In any other loop, every
batch that was yielded is trained, with one exception: a pass that was left after a single batch, with nothing saved
since, was a look at the data (`next(iter(loader))`) and moves nothing.

Where a schedule groups batches into optimizer steps, the trained position is always where a step begins: a step
counts when its last batch was yielded, or is committed then.
"""

from __future__ import annotations

from collections.abc import Callable

from resumable.errors import ResumptionError, warn
from resumable.position import Position
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.step_plan import Step, StepPlan

__all__ = ["Cursor", "Pass", "more_than_yielded"]

_LOOKED_TWICE = (
    "Two passes were left after one batch: such a pass is taken for a look at the data, and the next one begins with "
    "the same batch.\nKeep one iterator, or call loader.state.commit() after the step to train single batches."
)


class Pass:
    """One iteration over the rest of an epoch. The loader adds to *taken* as it yields.

    With a schedule, *step* is the step that the last batch belongs to, and what was taken before it.
    """

    def __init__(self, begun_at: Position, /) -> None:
        self.begun_at: Position = begun_at
        self.taken: int = 0
        self.ended: bool = False
        self.step: tuple[Step, int] | None = None
        self.is_running: Callable[[], bool] = _never

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "is_running": _never}  # nobody iterates a copy

    @property
    def of_step(self) -> int:
        """Batches that were yielded of the present step."""
        return self.taken if self.step is None else self.taken - self.step[1]


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
        self.seek(position, commits=commits)

    def seek(self, position: Position, /, *, commits: bool) -> None:
        """Stand at *position*, with nothing read beyond it."""
        self.commits: bool = commits
        self.current: Pass = Pass(self.plan.canonical(position))
        self._committed = self.current.begun_at
        self._reads_ahead = False
        self._saved_at = -1
        self._looks = 0

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
        this = self.current
        if batches is not None:
            self._committed = self._after(batches)
        elif this.step is not None and 0 < this.of_step < this.step[0].batches:
            raise _within_step(this.step[0].batches, "yielded of them", this.of_step)
        else:
            self._committed = self.read_position
        self.commits, self._reads_ahead = True, batches is not None

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
        self._saved_at = self.current.taken

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
        return last.taken == 1 and not last.ended and not self.commits and self._saved_at != 1

    def begin(self) -> Pass:
        """Open a pass at `next_start`; warn where one batch is looked at again and again."""
        self._looks = self._looks + 1 if self._was_a_look else 0
        if self._looks == 2:
            warn(_LOOKED_TWICE)
        self.current = Pass(self.next_start)
        self._saved_at = -1
        return self.current


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


def _never() -> bool:
    return False
