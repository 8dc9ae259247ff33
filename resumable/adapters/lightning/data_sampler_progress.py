"""Progress of a run whose data sampler counts: Lightning says which batches are trained, the sampler what they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.restart import has_ended
from resumable.checks import as_int
from resumable.data_sampler.epochs_apart import tell_of_epochs
from resumable.data_sampler.options import SamplerOptions
from resumable.data_sampler.placed_loader import SeekableSampler, check_begins
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.errors import warn
from resumable.loading.reseeding import STEP_BEGINS, reseed
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.protocols import DataSampler
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.schedules import ConstantBatchSize
from resumable.verdict import Verdict

__all__ = ["LightningSamplerProgress"]


class LightningSamplerProgress(DataSamplerProgress):
    """A sampler's count over the batches that Lightning has trained, and the epoch that it is in.

    A training step is a call of `training_step`, and takes a global batch of any size: `global_step` is another number
    where two optimizers step or gradients are accumulated. `training_step(dataloader_iter)` draws its micro batches by
    itself, as many as the sampler counts; `training_step(batch)` takes one batch of the loader.
    """

    epochs_vary = False
    primary_number = 0
    hears_batch_start = True

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
            options,
            steps=lambda: self._past + self._batches.done()[0],
            judge=judge,
        )
        self._first = self._base[0]
        self._plan: BatchPlan | None = None
        self._epoch, self._began = 0, 0
        self._is_running = False
        self._rank_offset = self._per_round = 0
        self._first_of_step: int | None = None

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
        batches, _, _ = self._restored()
        trained, in_time = self._trained_by(batches), self.count(batches)
        if trained is not None and self._lags and trained != in_time:
            warn(
                "This checkpoint holds no count, so the samples of its ramp-up follow from its steps.",
                [("steps", batches), ("trained", trained), ("if no size had come late", in_time)],
                "The run goes on after what NeMo's data sampler trains without the decorator: each size a step late.",
            )
        return Snapshot(in_time if trained is None else trained, epoch=None, offset=None)

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
            tell_of_epochs(sampler, is_limited=plan.batches < len(sampler))
        self.order: Identity | None = sampler.identity
        self._plan = plan
        self._let_reseed(sampler)
        self._rank_offset = sampler.rank_offset
        self._per_round = sampler.samples_per_round
        if is_first and self.has_moved_on(self._saved):
            self._place_anew()  # a strategy's loaders are here only when the loops are placed already

    def _find_epoch(self, sampler: SeekableSampler, plan: BatchPlan) -> None:
        saved = self._saved
        is_unknown = saved.position is None or (saved.order is None and saved.offset == 0 and self.consumed_samples > 0)
        offset = 0 if is_unknown or saved.offset is None else saved.offset
        stretch = self._stretch_of(sampler, plan)
        verdict = self._compared(sampler, offset, stretch)
        if is_unknown:
            at = self._position_of_count(plan)
        else:
            at = plan.canonical(Position(self.consumed_samples, saved.epoch or 0, offset))
        check_begins(sampler, at.offset)
        consumed = at.consumed_samples
        self._epoch, self._began = at.epoch, consumed - at.offset
        self._stretch = stretch and replace(
            stretch, sample=consumed, epoch=at.epoch, offset=at.offset, reseed=self.reseed
        )
        self._judge(verdict)

    # -- a count without an epoch: the trainer's restored counters say which it is, and whether it can be right

    def _position_of_count(self, plan: BatchPlan) -> Position:
        """The position of a run that saved a count alone, or nothing.

        A whole number of steps leaves out an epoch's rest, which some counts include. So the epoch and the offset in it
        follow from the trainer's counters, if the count is what so many steps take.
        """
        saved = self.consumed_samples
        batches, epoch, in_epoch = self._restored()
        trained = self._trained_by(batches)
        if self._saved.epoch is not None or not batches or trained is None:
            return plan.position_at(saved)
        consumed = trained if saved == trained else self._corrected(saved, batches, trained)
        if consumed is None:
            warn(
                "The saved count of samples is not what the steps of this checkpoint take, so it may not be what was trained.",
                [("saved consumed_samples", saved), ("by the steps", trained), ("steps", batches)],
                "The run goes on after the saved count, which is right where the batch size was another before.",
            )
            return plan.position_at(saved)
        if consumed != saved:
            warn(
                "The saved count of a ramp-up is ahead of what was trained: NeMo's data sampler adds the next batch to it.",
                [("saved consumed_samples", saved), ("trained", consumed), ("steps", batches)],
                "The run goes on after the trained samples.",
            )
            self._take(self._saved._replace(consumed_samples=consumed))
            self._awaits_restore = False
        offset = trained - (self._trained_by(batches - in_epoch) or 0)
        if consumed != trained or offset > plan.length:  # the sessions before this one began elsewhere
            return plan.position_at(consumed)
        return plan.canonical(Position(consumed, epoch, offset))

    def _restored(self) -> tuple[int, int, int]:
        """The batches that the trainer's counters say are trained, the epoch that goes on, and those trained of it."""
        fit = self.trainer.fit_loop
        total, epochs = fit.epoch_loop.batch_progress.total, fit.epoch_progress.current
        loops = {
            "epoch_progress": fit.epoch_progress.state_dict(),
            "epoch_loop.batch_progress": fit.epoch_loop.batch_progress.state_dict(),
        }
        batches = min(total.started, total.processed)
        if has_ended(loops):
            return batches, epochs.processed + (epochs.started > epochs.processed), 0
        in_epoch, begun = self.trained_batches(loops), fit.epoch_loop.batch_progress.current
        batches -= min(begun.started, begun.processed) - in_epoch  # an open window counts for nothing
        return batches, max(0, epochs.started - 1), in_epoch

    def _trained_by(self, batches: int) -> int | None:
        """The samples that *batches* training steps of the undecorated run took; None if they are unknown.

        NeMo's sampler moves the calculator after the second step, by what the first one took: each size of a ramp-up
        comes a step late.
        """
        first, schedule = self._first, self.schedule
        if schedule is None:
            sizes = self._sizes(None)
            if not isinstance(sizes, ConstantBatchSize):
                return None
            return first + batches * (sizes.batch_size // self.accumulation)
        if not batches or not self._lags:
            return schedule.samples_after(batches, first)
        return schedule.samples_after(batches - 1, first) + schedule.batch_size_at(first)

    def _corrected(self, saved: int, batches: int, trained: int) -> int | None:
        """What was trained, where NeMo's sampler saved *saved* in a ramp-up; None where it saves no such count.

        Its count holds the next batch too, so that each session of a run adds one: in the first session the run has
        trained what *batches* steps take, and in a later one, which began at the count before, all but that batch.
        """
        schedule = self.schedule
        if schedule is None or not self._lags:
            return None
        steps = schedule.steps_between(self._first, saved) if saved > self._first else 0
        if steps < batches or schedule.samples_after(steps, self._first) != saved:
            return None
        return trained if steps == batches else schedule.samples_after(steps - 1, self._first)

    @property
    def _lags(self) -> bool:
        return callable(getattr(self.sampler, "on_megatron_step_end", None))

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
    def _takes_whole_batches(self) -> bool:
        return getattr(self.sampler, "dataloader_type", None) == "batch"

    @property
    def _draws_several(self) -> bool:
        """Whether `training_step(dataloader_iter)` draws micro batches itself: Lightning then counts those."""
        module = self.trainer.lightning_module
        return module is not None and _takes_an_iterator(
            getattr(module.training_step, "__func__", module.training_step)
        )

    @override
    def _taken_by_a_step(self) -> int | None:
        """A batch of the loader, where a step takes one and the sampler counts several."""
        counted = as_int(getattr(self.sampler, "global_batch_size", None))
        if self._plan is None or counted in (None, self._plan.batch_size) or self._draws_several:
            return None
        return None if self.schedule is not None else self._plan.batch_size

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
        elif self.schedule is not None and not self._draws_several and not self._takes_whole_batches:
            warn(
                "Batch sizes vary, but training_step(batch) takes one batch of the loader, so the count may not be right.",
                [("samples of a batch", self.batch_size), ("schedule", self.schedule)],
                "A training step is a global batch: let training_step(dataloader_iter) draw its micro batches, or leave the "
                "ramp-up out.",
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
        fit = self.trainer.fit_loop  # which restores the number of steps; each has drawn several micro batches
        if not self._batches.is_counting and self._plan is not None and self._draws_several:
            left = self._plan.batches_left(self.position.offset)
            fit._data_fetcher.fetched = max(0, fit._data_fetcher.length - left)
        self._batches.batch_starts()
        step = self._past + fit.epoch_loop.batch_progress.current.ready - 1 - self._batches.first_batch
        self.set_calculator(step)
        self._seen.pop(step, None)  # of a step that found too little data left
        self.step_starts(step)

    @property
    def reseeds(self) -> bool:
        """Whether random numbers follow the position."""
        return self.reseed is not None

    def reseed_at(self, moment: int, number: int | None = None, /) -> None:
        """Seed them; a step that draws its micro batches by itself takes several places."""
        if self.reseed is None:
            return
        micro = 0 if number is None else number - (number if self._first_of_step is None else self._first_of_step)
        self._first_of_step = None if number is None else number - micro
        begun = self._batches.begun - (moment == STEP_BEGINS)
        offset = self.count(self._past + begun) - self._began + micro * self._per_round + self._rank_offset
        reseed(moment, self.reseed, self._epoch, offset)

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


@cache
def _takes_an_iterator(training_step: Callable[..., Any]) -> bool:
    return "dataloader_iter" in inspect.signature(training_step).parameters
