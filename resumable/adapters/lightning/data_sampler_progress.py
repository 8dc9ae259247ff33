"""The trained position of a run whose data sampler counts: Lightning tells the steps, the sampler what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.restart import has_ended
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins, known_order
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.position import Position
from resumable.progress import LedgerAt
from resumable.protocols import BatchSchedule, DataSampler, MicrobatchCalculator
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, resolve
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import OnMismatch, Verdict

__all__ = ["LightningSamplerProgress"]


class LightningSamplerProgress(DataSamplerProgress):
    """A sampler's count over the batches that Lightning has trained, and the epoch that it lies in.

    A batch is what `training_step` gets, a global batch of any size: `global_step` is another number where two
    optimizers step or gradients are accumulated.
    """

    def __init__(
        self,
        sampler: DataSampler,
        trainer: Any,
        *,
        schedule: BatchSchedule | None,
        calculator: Callable[[], MicrobatchCalculator | None],
        on_mismatch: OnMismatch,
        judge: Callable[[Verdict], None],
        place_anew: Callable[[], None] = lambda: None,
    ) -> None:
        self.trainer = trainer
        self._place_anew = place_anew
        self._batches = BatchCount(trainer)
        self._past = 0
        self._loader: SeekableSampler | None = None
        self._saved = Snapshot()
        self._epoch, self._began = 0, 0
        self.is_running = False
        super().__init__(
            sampler,
            lambda: trainer,
            schedule=schedule,
            calculator=calculator,
            on_mismatch=on_mismatch,
            judge=judge,
        )
        self._first = self._base[0]

    # -- the progress, as the state asks for it

    @property
    def position(self) -> Position:
        """The sampler's count, and the place in the epoch once a loader has told how long one is."""
        consumed = self.consumed_samples
        if self._loader is None:
            return Position(consumed)
        if self._batches.done()[1]:
            return Position(consumed, self._epoch + 1, 0)
        return Position(consumed, self._epoch, consumed - self._began)

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        at, saved = self.position, super().read(ledger_at)
        return saved if self._loader is None else saved._replace(epoch=at.epoch, offset=at.offset)

    def load(self, saved: Snapshot, /) -> Verdict:
        """Write the saved count where the mixin writes it."""
        verdict = super().load(saved)
        self._awaited = None  # the steps here are this session's own
        self._saved, self._loader = saved, None
        return verdict

    def steps(self) -> int:
        """Batches of completed optimizer steps in this session."""
        return self._past + self._batches.done()[0]

    def position_without_state(self) -> Snapshot:
        """The count that the trainer's restored counters tell, for a checkpoint from before the decoration."""
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return Snapshot(self.count(min(batches.started, batches.processed)), epoch=None, offset=None)

    def end_of_run(self) -> None:
        """Leave the sampler as it was found: the next run begins at the first sample."""
        self.sampler.init_consumed_samples = self._first

    # -- the loader

    def place(self, sampler: SeekableSampler, /) -> None:
        """Go on in *sampler*'s data; where this is the first look at it, find the epoch.

        Raises:
            MismatchError: if the state cannot go on exactly in it, and the policy is "error".
        """
        is_known, self._loader = self._loader is not None, sampler
        order = self.order = sampler.identity
        if is_known:
            return
        consumed, then = self.consumed_samples, known_order(self._saved.order, order)
        saved = self._saved._replace(consumed_samples=consumed, order=then, ledger=Snapshot().ledger)
        if saved.order is None and saved.offset == 0 and consumed:
            saved = saved._replace(epoch=None, offset=None)
        try:
            # the order is the data sampler's own, and nobody can give it another one
            on_mismatch: OnMismatch = "error" if self._on_mismatch == "error" else "warn"
            found = resolve(saved, order, self._stretch(sampler), Policy(seed_is_given=True, on_mismatch=on_mismatch))
            check_begins(sampler, found.position.offset)
        except BaseException:
            self._loader, self.order = None, self._saved.order
            raise
        self._epoch, self._began = found.position.epoch, consumed - found.position.offset
        self._judge(found.verdict)
        if self.has_moved_on(self._saved):
            self._place_anew()  # a strategy's loaders are here only when the loops are placed already

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Where the training stands."""
        at = self.position
        return at.epoch, at.offset

    @property
    def _batching(self) -> BatchPlan | None:
        return None if self._loader is None else self._stretch(self._loader).batching

    def _stretch(self, sampler: SeekableSampler) -> Stretch:
        whole, limit = len(sampler), self.trainer.limit_train_batches
        batches = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
        size = sampler.samples_per_batch
        return Stretch(length=sampler.total_samples, micro_batch_size=size, drop_last=sampler.drop_last, limit=batches)

    # -- the epoch, as a placement asks for it

    epochs_vary = False
    is_running: bool = False

    @property
    def accumulation(self) -> int:
        """Batches that an optimizer step accumulates; 1 where the module steps by hand."""
        return self._batches.accumulation

    @property
    def batch_size(self) -> int:
        """Samples of the batch that begins now."""
        return self._loader.samples_per_batch if self._loader is not None else 1

    @property
    def is_at_epochs_start(self) -> bool:
        """Whether nothing of the epoch was trained when it was last folded."""
        return self.consumed_samples == self._began

    def is_within_epoch(self, loops: dict[str, Any], /) -> bool:
        """Whether some of the epoch is trained and some is not."""
        return self._saved.offset != 0 and self.batches_behind(loops) > 0

    def has_moved_on(self, saved: Snapshot, /) -> bool:
        """Whether the epoch that *saved* lies within has no batch left; False until a loader tells."""
        was_within = self._saved.offset != 0 and self.consumed_samples > 0
        return self._loader is not None and was_within and not self.position.offset

    def batches_behind(self, loops: dict[str, Any], /) -> int:
        """Batches that Lightning had trained of the epoch, whole accumulation windows."""
        if has_ended(loops):
            return 0
        current = loops["epoch_loop.batch_progress"]["current"]
        trained: int = min(current["started"], current["processed"])
        return trained - trained % self.accumulation

    def epoch_batches(self, loops: dict[str, Any] | None, /) -> int:
        """Batches of a whole epoch; of the one that has ended, if *loops* is what was saved."""
        if loops is not None:
            return int(loops["epoch_loop.batch_progress"]["current"]["processed"])
        return self._batching.batches if self._batching is not None else 0

    def first_epoch_batches(self, behind: int, /) -> int | None:
        """Batches of an epoch of which *behind* are trained, where they and the rest are not a whole epoch's."""
        offset, batching = self.position.offset, self._batching
        if batching is None or not offset:
            return None
        batches = behind + batching.batches_left(offset)
        if self._draws_several and batches < batching.batches:
            return None  # the steps are fewer than the batches, so that the data's end is the epoch's
        return None if batches == batching.batches else batches

    @property
    def _draws_several(self) -> bool:
        """Whether `training_step(dataloader_iter)` draws micro batches itself: Lightning then counts those."""
        return hasattr(self.trainer.fit_loop._data_fetcher, "iterator_wrapper")

    # -- what the trainer's callbacks are told

    def train_starts(self) -> None:
        """The counters are restored: step and count begin together."""
        self.is_running = True
        self._batches.mark()
        self.tell_calculator()
        self.rebase()

    def train_ends(self) -> None:
        """A state may be loaded again."""
        self.is_running = False

    def epoch_starts(self) -> None:
        """Nothing of the epoch is counted before its first batch."""
        self._batches.mark()

    def batch_starts(self) -> None:
        """A batch is about to be trained: the calculator shows what it takes."""
        fit = self.trainer.fit_loop
        if self._draws_several and not self._batches.is_counting and self._loader is not None:
            # Lightning restores the number of steps; each has drawn several micro batches
            left = self._stretch(self._loader).batching.batches_left(self.position.offset)
            fit._data_fetcher.fetched = max(0, fit._data_fetcher.length - left)
        self._batches.batch_starts()
        step = self._past + fit.epoch_loop.batch_progress.current.ready - 1 - self._batches.first_batch
        self.set_calculator(step)
        self._seen.pop(step, None)  # of a step that found too little data left
        self.step_starts(step)

    def epoch_ends(self) -> None:
        """Fold what was trained, and begin the next epoch."""
        if not self._batches.is_counting:
            return
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        # a step that found too little data left ends the epoch as well; a run that was stopped does not
        ended = self._batches.done()[1] or progress.ready > progress.processed
        consumed, self._past = self.consumed_samples, self.steps()
        self._batches.mark()
        if ended:
            self._epoch, self._began = self._epoch + 1, consumed
