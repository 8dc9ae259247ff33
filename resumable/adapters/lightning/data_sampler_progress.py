"""Progress of a run whose data sampler counts: Lightning says which batches are trained, the sampler what they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.restart import has_ended
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins
from resumable.data_sampler.progress import DataSamplerProgress, SamplerOptions
from resumable.errors import warn
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.protocols import DataSampler
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import Verdict

__all__ = ["LightningSamplerProgress"]


class LightningSamplerProgress(DataSamplerProgress):
    """A sampler's count over the batches that Lightning has trained, and the epoch that it is in.

    A batch is what `training_step` gets, a global batch of any size: `global_step` is another number where two
    optimizers step or gradients are accumulated.
    """

    epochs_vary = False
    primary_number = 0

    def __init__(
        self,
        sampler: DataSampler,
        trainer: Any,
        options: SamplerOptions,
        *,
        judge: Callable[[Verdict], None],
        place_anew: Callable[[], None] = lambda: None,
    ) -> None:
        self.trainer = trainer
        self._place_anew = place_anew
        self._batches = BatchCount(trainer)
        self._past = 0  # batches of the session's earlier epochs
        super().__init__(
            sampler,
            lambda: trainer,
            # the order is the data sampler's own: there is none to adopt
            options if options.on_mismatch == "error" else replace(options, on_mismatch="warn"),
            steps=lambda: self._past + self._batches.done()[0],
            judge=judge,
        )
        self._first = self._base[0]
        self._plan: BatchPlan | None = None
        self._epoch, self._began = 0, 0
        self._is_running = False

    # -- the progress, as the state asks for it

    @override
    def _now(self) -> tuple[int, int | None, int | None]:
        batches, ended = self._batches.done()
        consumed = self._counted(self._past + batches)
        if self._plan is None:  # only a loader shows how long an epoch is
            return consumed, None, None
        return (consumed, self._epoch + 1, 0) if ended else (consumed, self._epoch, consumed - self._began)

    def load(self, saved: Snapshot, /) -> Verdict:
        """Write the saved count where the mixin writes it; the verdict waits for a loader."""
        self._take(saved)
        self._awaits_restore, self._plan = False, None  # the steps here are this session's own
        return Verdict()

    def position_without_state(self) -> Snapshot:
        """The count that follows from the trainer's restored counters, for a checkpoint from before the decoration."""
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return Snapshot(self.count(min(batches.started, batches.processed)), epoch=None, offset=None)

    def end_of_run(self) -> None:
        """Leave the sampler as it was found: the next run begins at the first sample."""
        self.sampler.init_consumed_samples = self._first

    # -- the loader

    def place(self, sampler: SeekableSampler, /) -> None:
        """Go on in *sampler*'s data; at the first loader, find the epoch.

        Raises:
            MismatchError: if the state cannot go on exactly in it, and the policy is "error".
        """
        plan, is_first = self._plan_of(sampler), self._plan is None
        if is_first:
            self._find_epoch(sampler, plan)
        self.order: Identity | None = sampler.identity
        self._plan = plan
        if is_first and self.has_moved_on(self._saved):
            self._place_anew()  # a strategy's loaders are here only when the loops are placed already

    def _find_epoch(self, sampler: SeekableSampler, plan: BatchPlan) -> None:
        consumed, saved = self.consumed_samples, self._saved
        is_unknown = saved.position is None or (saved.order is None and saved.offset == 0 and consumed > 0)
        offset = 0 if is_unknown or saved.offset is None else saved.offset
        stretch = self._stretch_of(sampler, plan)
        verdict = self._compared(sampler, offset, stretch)
        if is_unknown:
            at = plan.position_at(consumed)
        else:
            at = plan.canonical(Position(consumed, saved.epoch or 0, offset))
        check_begins(sampler, at.offset)
        self._epoch, self._began = at.epoch, consumed - at.offset
        self._stretch = stretch and replace(stretch, sample=consumed, epoch=at.epoch, offset=at.offset)
        self._judge(verdict)

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset of the position."""
        at = self.position
        return at.epoch, at.offset

    def _plan_of(self, sampler: SeekableSampler) -> BatchPlan:
        whole, limit = len(sampler), self.trainer.limit_train_batches
        batches = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
        return BatchPlan(sampler.total_samples, sampler.samples_per_batch, sampler.drop_last, batches)

    def _stretch_of(self, sampler: SeekableSampler, plan: BatchPlan) -> Stretch | None:
        """What the steps take. A step that draws its micro batches is left out where the epoch cannot fill it."""
        known = self._configuration(self._saved, sampler)
        if known is None:
            return None
        is_limited = plan.batches < replace(plan, limit=None).batches or self.accumulation > 1
        rounds = max(1, plan.batch_size // (known.micro_batch_size * known.data_parallel_size))
        return replace(
            known,
            step=self._trainer_step() or 0,
            length=plan.length if plan.drop_last else max(plan.length, plan.batches * plan.batch_size),
            drop_last=self.accumulation == 1 and (bool(plan.drop_last) or self._draws_several),
            limit=plan.batches * rounds if is_limited else None,
        )

    @property
    @override
    def is_running(self) -> bool:
        return self._is_running

    # -- the epoch, as a placement asks for it

    @property
    def accumulation(self) -> int:  # type: ignore[override]  # read from the trainer
        """Batches that an optimizer step accumulates; 1 where the module steps by hand."""
        return self._batches.accumulation

    @property
    def batch_size(self) -> int:
        """Samples of the batch that begins now."""
        return self._plan.batch_size if self._plan is not None else 1

    @property
    def is_at_epochs_start(self) -> bool:
        """Whether nothing of the epoch was trained when it was last folded."""
        return self.consumed_samples == self._began

    def is_within_epoch(self, loops: dict[str, Any], /) -> bool:
        """Whether some of the epoch is trained and some is not."""
        return self._saved.offset != 0 and self.trained_batches(loops) > 0

    def has_moved_on(self, saved: Snapshot, /) -> bool:
        """Whether the epoch of *saved* has no batch left; False until there is a loader."""
        was_within = self._saved.offset != 0 and self._saved.consumed_samples > 0
        return self._plan is not None and was_within and not self.position.offset

    def trained_batches(self, loops: dict[str, Any], /) -> int:
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
        return self._plan.batches if self._plan is not None else 0

    def first_epoch_batches(self, trained: int, /) -> int | None:
        """Batches of an epoch of which *trained* are trained, where they and the rest are not a whole epoch's."""
        offset, plan = self.position.offset, self._plan
        if plan is None or not offset:
            return None
        batches = trained + plan.batches_left(offset)
        if self._draws_several and batches < plan.batches:
            return None  # the steps are fewer than the batches, so that the data's end is the epoch's
        return None if batches == plan.batches else batches

    @property
    def _draws_several(self) -> bool:
        """Whether `training_step(dataloader_iter)` draws micro batches itself: Lightning then counts those."""
        module = self.trainer.lightning_module
        return module is not None and "dataloader_iter" in inspect.signature(module.training_step).parameters

    # -- what the trainer's callbacks are told

    def train_starts(self) -> None:
        """The counters are restored: step and count begin together."""
        if self._plan is None:
            warn(
                "No train loader of this fit begins at the data sampler's count.",
                [("data sampler", type(self.sampler).__qualname__), ("its count", self.consumed_samples)],
                "If they do not begin there by themselves, a resumed run trains their first samples again. Let the sampler's "
                "transform_dataloader make them.",
            )
        self._is_running = True
        self._batches.mark()
        self.rebase()

    def train_ends(self) -> None:
        """A state may be loaded again."""
        self._is_running = False

    def epoch_starts(self) -> None:
        """Nothing of the epoch is counted before its first batch."""
        self._batches.mark()

    def batch_starts(self) -> None:
        """A batch is about to be trained: the calculator shows what it takes."""
        fit = self.trainer.fit_loop
        if not self._batches.is_counting and self._plan is not None and self._draws_several:
            # Lightning restores the number of steps; each has drawn several micro batches
            left = self._plan.batches_left(self.position.offset)
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
        batches, ended = self._batches.done()
        self._past += batches
        self._batches.mark()
        # a step that found too little data left ends the epoch as well; a run that was stopped does not
        if ended or progress.ready > progress.processed:
            self._epoch, self._began = self._epoch + 1, self.consumed_samples
