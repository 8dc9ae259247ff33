"""Loaders that count by themselves and were handed to `trainer.fit`, without a decorated datamodule around them.

iter(loader) in a fit ──► passes_of    the trainer's counters count, as for a decorated datamodule
the fit's checkpoints                  Lightning saves each loader's state, and loads it unless an epoch was complete
the fit's end         ──► release      each loader counts by itself again, from the trained position on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from resumable.adapters.lightning.hooks import Hooks, hooks_of
from resumable.adapters.lightning.progress import LightningProgress, forget_fetcher
from resumable.adapters.lightning.restart import SavedLoops
from resumable.adapters.lightning.several_loaders import canary_of, combine, stretch_of
from resumable.errors import warn
from resumable.feeds.feed import ResumableSampler, Shard
from resumable.feeds.from_dataloader import of_as_many_ranks
from resumable.loading.dataloader import Iterate, SeekableLoader
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.map_loader import MapLoader
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Progress, Tracker
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import LoaderPosition, Snapshot
from resumable.verdict import Verdict

if TYPE_CHECKING:
    from resumable.adapters.lightning import Adapter

__all__ = ["passes_of"]


class HandedLoader(MapLoader):
    """A loader that counts by itself in loops. Its feed is its own: what a trainer limits is not limited in a loop."""

    def __init__(self, loader: Any, passes: LoopPasses, shard: Shard) -> None:
        self.loader: SeekableLoader[Any] = loader
        self.passes: LoopPasses = passes
        self.sampler: ResumableSampler = passes.sampler
        self.feed = copy(of_as_many_ranks(passes.progress.feed, shard))
        self.num_workers: int = loader.num_workers
        self.reseed: int | None = passes.progress.stretch.reseed
        self.watch_length(loader.dataset)
        self.goes_back_to: Snapshot | None = None

    @override
    def follow(self, start: Callable[[], LoaderPosition], count: Callable[[], int | None], /) -> None:
        self._start, self._count = start, count  # the loader asks for its passes by itself


class LoaderPart(Progress):
    """What the progress of several loaders counts of one of them, whose own order is *own*."""

    def __init__(self, progress: LightningProgress, number: int, before: int, own: Identity) -> None:
        self._progress = progress
        self._number = number
        self._before = before
        self._own = own
        at = self.position
        stretch = stretch_of(progress.loaders[number], progress.accumulation)
        self._stretch = replace(stretch, sample=before, epoch=at.epoch, offset=at.offset)

    @property
    @override
    def is_running(self) -> bool:
        return self._progress.is_running

    @property
    @override
    def position(self) -> Position:
        place = self._progress.places[self._number]
        return Position(self._before + self._progress.consumed[self._number], place.epoch, place.offset)

    @property
    @override
    def present_stretch(self) -> Stretch:
        return self._stretch

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        at, loader = self.position, self._progress.loaders[self._number]
        orders = [loader.feed.identity] if loader.feed.identity == self._own else [None]
        canary = canary_of([loader], orders, [LoaderPosition(at.epoch, at.offset)])
        ledger, commits = ledger_at(self._stretch, at.consumed_samples), self._progress.commits
        return Snapshot(at.consumed_samples, at.epoch, at.offset, self._own, commits, (), ledger, None, canary)

    @override
    def load(self, saved: Snapshot, /) -> Verdict:
        raise NotImplementedError  # a loader is loaded by its own progress, before or after the fit

    @override
    def commit(self, batches: int | None = None) -> None:
        self._progress.commit(batches)


@dataclass
class HandedRun:
    """The loaders of one trainer, and the tracker that stands in for a decorated datamodule's."""

    adapter: Adapter
    tracker: Tracker = field(default_factory=Tracker)
    combined: Any = None
    loaders: dict[int, HandedLoader] = field(default_factory=dict[int, HandedLoader])

    @property
    def hooks(self) -> Hooks:
        """The callback that hears of the trainer."""
        return hooks_of(self.adapter.trainer, self.tracker)

    def connect(self, combined: Any) -> None:
        """Let the loaders that *combined* holds follow the trainer, from where they are, or from a checkpoint."""
        hooks, fit = self.hooks, self.adapter.trainer.fit_loop
        self.combined, self.loaders = combined, {}
        flattened: list[Any] = combined.flattened
        passes: list[Any] = [getattr(loader, "_resumable_pass", None) for loader in flattened]
        handed = [each for each in passes if isinstance(each, LoopPasses)]
        if len(handed) < len(passes):
            warn(
                "A fit trains with loaders of which only some can be resumed: none of them follows the trainer.\n"
                "Make each of them a ResumableLoader, or let a datamodule that is decorated with @resumable return them."
            )
            return
        shard = self.adapter.shard
        loaders = [HandedLoader(*each, shard) for each in zip(flattened, handed, strict=True)]
        for number, each in enumerate(handed):
            self.adapter.check_loader(loaders[number].loader, number, each.progress.stretch)
        if hooks.progress is None or not hooks.progress.is_running:
            hooks.progress = None
            _load_pending(hooks, fit, combined)
            self.tracker.disconnect()
            saved = self._saved(loaders)
            hooks.is_loaded = saved != Snapshot()
            self.tracker.load_snapshot(saved, is_resume=fit.is_resuming)
        policy, schedule = handed[0].progress.policy, handed[0].progress.stretch.schedule
        self.adapter.connect(self.tracker, list(loaders), combined._mode, schedule, policy)
        self._follow(loaders)

    def _saved(self, loaders: list[HandedLoader]) -> Snapshot:
        """Where the loaders are, as the state of a decorated datamodule would say it."""
        trainer = self.adapter.trainer
        states = [_state_of(each.passes) for each in loaders]
        if all(state.order is None for state in states):
            return Snapshot()
        if trainer.overfit_batches > 0:  # in the dataset's order, which is none of the loader's own
            states = [state._replace(order=None, canary=None) for state in states]
        first = combine(loaders, self.combined._mode, trainer.limit_train_batches).primary
        places = tuple(LoaderPosition(state.epoch or 0, state.offset or 0, state.order) for state in states)
        whole = states[first]._replace(commits=False)  # the trainer's counters know what is trained
        return whole if len(loaders) == 1 else whole._replace(loaders=places, canary=None)

    def _follow(self, loaders: list[HandedLoader]) -> None:
        progress: Any = self.hooks.progress
        is_trial = hasattr(self.adapter.trainer.callbacks[0], "lrs")  # of the learning rate finder, which undoes it
        for number, each in enumerate(loaders):
            tracker = each.passes.tracker
            tracker.disconnect()
            each.goes_back_to = tracker.snapshot() if is_trial else None
            own, before = each.passes.progress.feed.identity, tracker.position.consumed_samples
            is_whole = len(loaders) == 1 and own == each.feed.identity  # which it is not where Lightning overfits
            tracker.follow(progress if is_whole else LoaderPart(progress, number, before, own))
            if is_whole:
                self.tracker.audit = tracker.audit
            self.loaders[id(each.passes)] = each
            each.passes.is_handed = True

    def release(self) -> None:
        """Let each loader count by itself again."""
        hooks, loaders = self.hooks, list(self.loaders.values())
        self.combined, self.loaders = None, {}
        for each in loaders:
            each.passes.is_handed = False
            each.passes.tracker.return_to(each.passes.progress, each.goes_back_to)
        hooks.progress = None
        self.tracker.disconnect()


def passes_of(adapter: Adapter, passes: LoopPasses, /) -> Callable[[Iterate[Any]], Iterator[Any]] | None:
    """The passes in the fit that iterates the loader of *passes*, which are those of loops."""
    fit = adapter.trainer.fit_loop
    run = _runs(adapter)
    if run.combined is not fit._combined_loader:
        try:
            run.connect(fit._combined_loader)
        except BaseException:
            run.combined = None
            forget_fetcher(adapter.trainer)
            raise
    return run.loaders.get(id(passes))


def _runs(adapter: Adapter) -> HandedRun:
    for callback in adapter.trainer.callbacks:
        run: HandedRun | None = callback.run if isinstance(callback, Hooks) else None
        if run is not None:
            return run
    run = HandedRun(adapter)
    run.hooks.run = run
    return run


def _load_pending(hooks: Hooks, fit: Any, combined: Any) -> None:
    """Load what the checkpoint holds of the loaders and Lightning has not loaded: it leaves out complete epochs."""
    loaded: dict[str, Any] | None = (
        fit.trainer._checkpoint_connector._loaded_checkpoint if hooks.loops is None else None
    )
    loops: dict[str, Any] | None = (loaded or {}).get("loops", {}).get("fit_loop")
    states: list[Any]
    if loops is not None and not fit.is_resuming:  # the loaders are built before the loops are restored
        hooks.loops = SavedLoops(loops)
        states = loops["state_dict"].get("combined_loader", [])
    else:
        states, fit._combined_loader_states_to_load = fit._combined_loader_states_to_load, []
    combined._load_state_dicts(states)


def _state_of(passes: LoopPasses) -> Snapshot:
    """Where a loader is; nothing where nothing was loaded or trained. A position past its epoch's last batch is kept."""
    tracker, plan = passes.tracker, passes.progress.feed.plan
    if tracker.progress is not None:
        tracker.progress.settle()  # a look at the data moves nothing
    now, loaded = tracker.snapshot(), tracker.loaded
    if now.consumed_samples == 0 and loaded == Snapshot():
        return Snapshot()
    is_kept = loaded.position is not None and now.position == plan.canonical(loaded.position)
    return now._replace(epoch=loaded.epoch, offset=loaded.offset) if is_kept else now
