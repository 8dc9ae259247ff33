"""`ResumptionState`: the position of a run, to be saved and loaded. A `resumable.progress.Progress` counts its steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from operator import index
from typing import Any, SupportsIndex

from typing_extensions import Self

from resumable.checks import whole_number
from resumable.data_sampler.options import SamplerOptions
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.data_sampler.sampler_hooks import StepHook
from resumable.errors import ResumptionError
from resumable.position import Position
from resumable.progress import Tracker
from resumable.protocols import AllGather, BatchSchedule, DataSampler, MicrobatchCalculator, Trainer
from resumable.saved.file import read, write
from resumable.saved.ledger import Ledger
from resumable.stopping.signals import stop_requested
from resumable.verdict import Verdict

__all__ = ["ResumptionState", "tracker_of"]


class ResumptionState:
    """The position of a training run in its data.

    It fits `torch.distributed.checkpoint`'s `Stateful`, and any checkpoint that holds JSON types. Given a *sampler* of
    NeMo's shape and a *trainer*, it counts as they do; a `ResumableLoader` or a decorated datamodule has its own state.

    Args:
        sampler: counts the samples of the trainer's steps: NeMo's `MegatronDataSampler`, or one of its shape.
        trainer: counts the steps; without one the last known count stays.
        schedule: the batch sizes, where they vary; without one they follow from the sampler's `rampup_batch_size`.
        calculator: receives a loaded count; without one it is megatron-core's or Apex's, where they are installed.
        agreement: compares the positions of all ranks, as that of `ResumableLoader` does.

    >>> state = ResumptionState()
    >>> state.load_state_dict({"consumed_samples": 640})
    >>> state.consumed_samples
    640
    """

    def __init__(
        self,
        sampler: DataSampler | None = None,
        trainer: Trainer | None = None,
        *,
        schedule: BatchSchedule | None = None,
        calculator: MicrobatchCalculator | None = None,
        agreement: AllGather | None = None,
    ) -> None:
        progress: DataSamplerProgress | None = None
        if sampler is not None:
            progress = DataSamplerProgress(sampler, lambda: trainer, SamplerOptions(schedule, calculator))
            StepHook(sampler, progress)
        self._tracker = Tracker(progress, agreement)

    @property
    def position(self) -> Position:
        """The trained position, from which a resumed run goes on.

        Epoch and offset are 0 while only the consumed samples are known.
        """
        return self._tracker.asked()

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed, over all ranks, since the run began."""
        return self._tracker.position.consumed_samples

    @property
    def stop_requested(self) -> bool:
        """Whether this process was asked to stop, by a signal of `stop_on`: save, and leave the loop."""
        return stop_requested()

    @property
    def verdict(self) -> Verdict:
        """How exactly the last state goes on that was loaded here, or refused."""
        return self._tracker.verdict

    @property
    def ledger(self) -> Ledger:
        """The run's stretches so far, the present one included once it has trained a sample."""
        return self._tracker.snapshot().ledger

    @property
    def agreement(self) -> AllGather | None:
        """Compares the positions of all ranks at each save and load; None asks no other rank. It may be set."""
        return self._tracker.agreement

    @agreement.setter
    def agreement(self, agreement: AllGather | None) -> None:
        self._tracker.agreement = agreement

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains a second time, so that every rank gets equally many.

        They are the first of the epoch's order, as with torch's DistributedSampler, fewer than there are ranks, and not
        counted as consumed. 0 with one rank, and where the tail is dropped or carried.
        """
        progress = self._tracker.progress
        return 0 if progress is None else progress.padded_samples

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase; 0 where no trainer counts."""
        progress = self._tracker.progress
        return 0 if progress is None else progress.init_global_step

    def update_init_global_step(self) -> None:
        """Count from the trainer's present step on. Never required; safe to call at any time."""
        if self._tracker.progress is not None:
            self._tracker.progress.rebase()

    def commit(self, *, batches: SupportsIndex | None = None) -> None:
        """Count everything yielded so far as trained; call it after `optimizer.step()`.

        From the first call on, only what is committed counts, in resumed runs too. That call may come before the loop.

        With a wrapper that takes batches from the loader ahead of the training, what was yielded is not yet trained: pass
        *batches*, the batches on this rank that were trained since the last commit, in the order in which they came.
        Where a schedule sizes the steps, they are whole steps, and `num_microbatches` is that of the step after them.
        A pass that was read to its end is followed by the next epoch, while its last batches may still be committed.

        Raises:
            ResumptionError: if nothing is connected that yields samples, or for more *batches* than were yielded.
            ConfigurationError: if *batches* is no whole number from 0 on.
        """
        if self._tracker.progress is None:
            raise ResumptionError(
                "There is nothing to commit: no loader is connected to this state.",
                [("position", self.position)],
                "Use the state of a ResumableLoader (loader.state), or build the loader first.",
            )
        self._tracker.progress.commit(None if batches is None else whole_number("batches", batches))

    def samples_of_step(self, step: SupportsIndex, rank: SupportsIndex | None = None) -> list[int]:
        """The dataset indices that optimizer step *step* trained, or will train if the run goes on as it is now.

        Args:
            step: counted from 1, so that `global_step` is *step* after it. In a loop without a schedule a batch is a step.
            rank: a data-parallel rank; None for all, round by round and rank by rank. What fills an epoch's end, so that all
                ranks get equally many, comes last.

        Raises:
            ConfigurationError: for a step below 1, or a rank that the step did not have.
            StateError: where the state does not tell: a stream's, one of several loaders, one that a user's sampler ordered.
        """
        from resumable.history import History

        return History(*self._tracker.history()).step(index(step)).indices(None if rank is None else index(rank))

    def steps_of_sample(self, sample: SupportsIndex) -> list[int]:
        """Each optimizer step that has trained the dataset index *sample*, and the next one that will.

        Raises:
            ConfigurationError: if the dataset has no such index.
            StateError: as `samples_of_step`.
        """
        from resumable.history import History

        return History(*self._tracker.history()).steps_of(index(sample))

    def describe(self) -> str:
        """The position and the verdict in one line, for people.

        >>> state = ResumptionState()
        >>> state.load_state_dict({"consumed_samples": 640})
        >>> state.describe()
        '640 samples, exact'
        """
        return self._tracker.describe()

    def state_dict(self) -> dict[str, Any]:
        """The position as a new dict of JSON types, always with the same keys; with *agreement*, if all ranks agree on it."""
        return self._tracker.agreed_state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved position: one that `state_dict` gave, or a bare `{"consumed_samples": n}`.

        Raises:
            StateError: if it cannot be read.
            MismatchError: if it cannot go on exactly with the dataset, the seed or the order that are connected.
            AgreementError: if other ranks could not load it or have loaded another one; then no rank has loaded it.
        """
        self._tracker.load(state_dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to the file *path*, whole at every moment; `<path>.previous` keeps the state before it.

        The state is the same on every rank: one of them is enough to save it, and it asks no other.

        Raises:
            StateError: if JSON would not give the state back as it is.
            ConfigurationError: if *path* is a directory or a device, or its folder does not exist.
            OSError: as the system gave it (no space, no permission); the old file is as it was.
        """
        write(path, self._tracker.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The state in a file of `save`, connected to nothing; `loader.load(path)` reads one and goes on from it.

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

    def __getstate__(self) -> dict[str, object]:
        return {"_tracker": copy(self._tracker)}  # connected to nothing

    def __repr__(self) -> str:
        return f"<ResumptionState: {self.describe()}>"


def tracker_of(state: ResumptionState, /) -> Tracker:
    """The inner part of *state*, for the loaders and adapters that count for it."""
    return state._tracker  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only access from outside
