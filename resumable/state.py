"""`ResumptionState`: the position of a run, saved and loaded, whoever counts the steps.

ResumptionState ──asks──► Frontier      a loop's own count          (loader)
                                        a sampler and a trainer     (here)
                                        Lightning's loop counters   (adapters.lightning)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from resumable.data_sampler.calculators import find_calculator
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.data_sampler.step_observer import watch
from resumable.errors import MismatchError, ResumptionError, explain
from resumable.position import Position
from resumable.progress import Progress, Standing
from resumable.protocols import AllGather, BatchSchedule, DataSampler, MicrobatchCalculator, Trainer
from resumable.saved.agreement import agreed
from resumable.saved.file import read, write
from resumable.saved.ledger import Ledger
from resumable.saved.snapshot import Snapshot, parse
from resumable.stopping.signals import stop_requested
from resumable.verdict import Verdict

__all__ = ["ResumptionState"]


class ResumptionState:
    """The position of a training run in its data.

    It fits `torch.distributed.checkpoint`'s `Stateful`, and any checkpoint that holds JSON types. Given a *sampler* of
    NeMo's shape and a *trainer*, it counts as they do; a `ResumableLoader` or a decorated datamodule brings its own.

    Args:
        sampler: what counts the samples of the trainer's steps: NeMo's `MegatronDataSampler`, or of its shape.
        trainer: what counts the steps; without one the last known count stands.
        schedule: the batch sizes to come, where they vary; without one the sampler's `rampup_batch_size` says them.
        calculator: who is told of a loaded count; without one megatron-core's or Apex's, where they are installed.
        agreement: as of `ResumableLoader`: all ranks are asked, and raise an AgreementError if they stand at unlike places.

    >>> state = ResumptionState()
    >>> state.load_state_dict({"consumed_samples": 640})
    >>> state.consumed_samples
    640
    """

    agreement: AllGather | None = None  # that of the arguments; a copy or a pickle asks nobody

    def __init__(
        self,
        sampler: DataSampler | None = None,
        trainer: Trainer | None = None,
        *,
        schedule: BatchSchedule | None = None,
        calculator: MicrobatchCalculator | None = None,
        agreement: AllGather | None = None,
    ) -> None:
        self.agreement = agreement
        counting: Progress | None = None
        if sampler is not None:
            calculators = find_calculator if calculator is None else lambda: calculator
            frontier = DataSamplerProgress(sampler, lambda: trainer, schedule=schedule, calculator=calculators)
            counting = watch(sampler, frontier)
        self._standing = Standing(Snapshot(), counting)
        self._verdict = Verdict()

    @property
    def frontier(self) -> Progress | None:
        """Who counts; None while nothing is connected."""
        return self._standing.frontier

    @property
    def position(self) -> Position:
        """The trained frontier: the place from which a resumed run goes on.

        Epoch and offset are 0 while only the consumed samples are known.
        """
        return self._standing.position

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed, over all ranks, since the run began."""
        return self.position.consumed_samples

    @property
    def stop_requested(self) -> bool:
        """Whether this process was asked to stop, by a signal of `stop_on`: save, and leave the loop."""
        return stop_requested()

    @property
    def verdict(self) -> Verdict:
        """How exactly the last state that was to be loaded goes on in the present configuration, refused ones included."""
        return self._verdict

    @property
    def ledger(self) -> Ledger:
        """The run's stretches so far, the present one included once it has trained a sample."""
        return self._standing.ledger

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains a second time, so that every rank gets equally many.

        They are the first of the epoch's order, as with torch's DistributedSampler, fewer than there are ranks, and count
        as consumed not at all. 0 with one rank, and where the tail is dropped or carried.
        """
        return 0 if self.frontier is None else self.frontier.padded_samples

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase; 0 where no trainer counts."""
        return 0 if self.frontier is None else self.frontier.init_global_step

    def update_init_global_step(self) -> None:
        """Count from the trainer's present step on. Needed never, harmless always: step and count move together."""
        if self.frontier is not None:
            self.frontier.rebase()

    def commit(self) -> None:
        """Say that everything yielded so far is trained; call it after `optimizer.step()`.

        From the first call on, only what is committed counts, in resumed runs too; a call before the loop says so at once.

        Raises:
            ResumptionError: if nothing is connected that yields samples.
        """
        if self.frontier is None:
            raise ResumptionError(
                explain(
                    "There is nothing to commit: no loader is connected to this state.",
                    [("position", self.position)],
                    "Use the state of a ResumableLoader (loader.state), or build the loader first.",
                )
            )
        self.frontier.commit()

    def state_dict(self) -> dict[str, Any]:
        """The position as a new dict of JSON types, always with the same keys."""
        if self.agreement is not None:
            agreed(self.agreement, self._dict)
        return self._dict()

    def _dict(self) -> dict[str, Any]:
        return self._standing.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved position: one that `state_dict` gave, or a bare `{"consumed_samples": n}`.

        Raises:
            StateError: if it cannot be read.
            MismatchError: if it cannot go on exactly with the dataset, the seed or the order that are connected.
            AgreementError: if other ranks could not load it or have loaded another one; then no rank has loaded it.
        """
        before = Snapshot() if self.agreement is None else self.snapshot()
        agreed(self.agreement, self._dict, lambda: self._load(state_dict), undo=lambda: self.load_snapshot(before))

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        saved = parse(state_dict)
        if self.frontier is not None and self.frontier.is_running:
            raise ResumptionError(
                explain(
                    "A state cannot be loaded while the loader is being iterated: the batches on their way are others.",
                    [("position", self.position)],
                    "Load it before the loop, or leave the loop first. Nothing was loaded.",
                )
            )
        self.load_snapshot(saved)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to the file *path*, whole at every moment; `<path>.previous` keeps the state before it.

        It is the same on every rank: one of them is enough, and no other is asked. `statefile.write` says what it raises.
        """
        write(path, self._dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The state in a file of `save`, connected to nothing; `loader.load_state_dict(state.state_dict())` goes on.

        Raises:
            StateError: if the file is damaged; the message offers `<path>.previous`. If neither file is there, it is
                a FileNotFoundError too.

        >>> ResumptionState.load("nowhere/state.json")
        Traceback (most recent call last):
        resumable.errors.MissingStateError: There is no state file...
        """
        state = cls()
        state.load_state_dict(read(path))
        return state

    def load_snapshot(self, saved: Snapshot, /) -> None:
        """Take over a position that is a value already."""
        if self.frontier is not None:
            self._verdict = self._judged(self.frontier, saved)
        self._standing = Standing(saved, self.frontier)

    def count_with(self, frontier: Progress, /, *, later: bool = False) -> None:
        """Let *frontier* count from where the present one would begin its next pass.

        With *later*, a frontier that is running goes on counting until the other one begins.
        """
        if self.frontier is frontier or (later and self.frontier is not None and self.frontier.is_running):
            return
        if self.frontier is not None:
            self.frontier.settle()
        self.connect(frontier)

    def forget(self, trained_by: type[Any] | tuple[type[Any], ...], /) -> None:
        """Leave whoever counted. A run that a *trained_by* counted is over: the next begins at the first sample.

        What anybody else counted was no training of a trainer: the position is again the one that was loaded.
        """
        self._standing = Standing(Snapshot() if isinstance(self.frontier, trained_by) else self._standing.saved)
        self._verdict = Verdict()

    def connect(self, frontier: Progress, /) -> None:
        """Count with *frontier* from the present position on; what was loaded before is loaded into it.

        Raises:
            MismatchError: if the position cannot go on exactly in the frontier's order; then nothing has changed.
        """
        agreed(self.agreement, self._dict, lambda: self._connect(frontier))

    def _connect(self, frontier: Progress) -> None:
        saved = self.snapshot()
        self._verdict = self._judged(frontier, saved)
        self._standing = Standing(saved, frontier)

    def _judged(self, frontier: Progress, saved: Snapshot) -> Verdict:
        """Load *saved* into *frontier*; the verdict of one that is refused stays, and nothing else of it."""
        try:
            return frontier.load(saved)
        except MismatchError as error:
            self._verdict = error.verdict or self._verdict
            raise

    def follow(self, frontier: Progress, /) -> None:
        """Count with *frontier* from where it stands itself."""
        self._standing = Standing(self._standing.saved, frontier)

    def judge(self, verdict: Verdict, /) -> None:
        """Take over how exactly the loaded state goes on, where it shows only behind the load."""
        self._verdict = verdict

    def disconnect(self) -> None:
        """Keep the present position without whoever counted it, as a copy or a pickle does."""
        self._standing = Standing(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The state as a value."""
        return self._standing.snapshot()

    def __getstate__(self) -> dict[str, object]:
        return {"_saved": self.snapshot(), "_verdict": self._verdict}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._standing, self._verdict = Standing(kept["_saved"]), kept["_verdict"]

    def __repr__(self) -> str:
        at = self.position
        return f"<ResumptionState consumed_samples={at.consumed_samples} epoch={at.epoch} offset={at.offset}>"
