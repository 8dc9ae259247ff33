"""The passes of a loader that counts by itself: those of a loop, and what a trainer's loops make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

from resumable.errors import ConfigurationError
from resumable.feeds.feed import ResumableSampler
from resumable.feeds.order_feed import OrderFeed
from resumable.loading.counted import Counted
from resumable.loading.dataloader import Iterate, SeekableLoader, install
from resumable.loading.loop_progress import LoopProgress
from resumable.loading.trainer_loops import trainer_loop
from resumable.progress import Tracker

__all__ = ["HandOver", "LoopPasses"]

HandOver: TypeAlias = "Callable[[Any, Any], Callable[[Iterate[Any]], Iterator[Any]] | None]"
"""From a trainer, and a loader's passes in loops, to its passes in the trainer's fit; None where nothing follows them."""


class LoopPasses:
    """Starts a loader's passes: in a loop they count what they yield, for *tracker*.

    *dataset* may change its length between two passes.

    A pass that a trainer trains with starts and counts as *hand_over* says. One that a trainer evaluates with is the
    whole epoch, and moves nothing, nor does any other pass while a trainer trains. *check* is called before the others.
    """

    is_handed: bool = False
    """Whether a trainer trains with the loader now."""

    in_windows: bool = False
    """Whether a pass begins now that goes on where the last one ended, in a trainer's validation too: see `Windows`."""

    prepared_for: str | None = None
    """The framework whose loops train with the loader: see `resumable.loading.prepared`."""

    follow: Callable[[Counted[Any]], Iterator[Any]] | None = None
    """What that framework makes of a pass in a loop."""

    marks: ClassVar[dict[str, Any]] = {}
    """Attributes of the loader that are there for that framework. A copy of the loader has none of them."""

    def __init__(
        self,
        sampler: ResumableSampler,
        progress: LoopProgress,
        tracker: Tracker,
        hand_over: HandOver,
        check: Callable[[], object] | None = None,
        *,
        dataset: Any = None,
    ) -> None:
        self.sampler = sampler
        self.progress = progress
        self.tracker = tracker
        self._hand_over = hand_over
        self._check = check
        self._dataset = dataset

    def install(self, loader: SeekableLoader[Any]) -> None:
        """Start the passes of *loader*, which saves and loads their position."""
        install(loader, self.sampler, self)
        is_scheduled = self.progress.stretch.schedule is not None
        vars(loader).update(
            state_dict=self.tracker.agreed_state_dict,
            load_state_dict=self.tracker.load,
            _resumable_schedule=self.progress if is_scheduled else None,
        )

    def __call__(self, iterate: Iterate[Any]) -> Iterator[Any]:
        """The pass that is asked for now."""
        loop = trainer_loop()
        passes = self._hand_over(loop.trainer, self) if loop is not None and loop.trains else None
        if passes is not None:
            return passes(iterate)
        if self._check is not None:
            self._check()
        if loop is not None and not loop.trains and not self.in_windows:
            self.sampler.begin(self.progress.feed, self.sampler.start, evaluates=True)
            return iterate(beside=loop.is_beside_training)
        if self.is_handed:
            at = self.tracker.position
            self.sampler.begin(self.progress.feed, (at.epoch, at.offset))
            return iterate(beside=True)
        self.follow_length(begins=True)
        batches = self.progress.passes_in_turn(self.tracker, self.sampler, iterate)
        return batches if self.follow is None else self.follow(batches)

    def follow_length(self, *, begins: bool = False) -> None:
        """Go on with a dataset that has become longer or shorter, where an epoch begins next.

        Raises:
            ConfigurationError: where a pass *begins* that cannot be trained.
        """
        progress, feed = self.progress, self.progress.feed
        if self._dataset is not None and isinstance(feed, OrderFeed) and self.tracker.progress is progress:
            if progress.is_running:
                return
            try:
                present = feed.as_long_as(self._dataset)
                if present is not feed:
                    progress.resize(present, self.tracker)
            except ConfigurationError:
                if begins:
                    raise

    def __getstate__(self) -> dict[str, Any]:
        kept = {**vars(self), "is_handed": False}
        return {name: value for name, value in kept.items() if name not in ("prepared_for", "follow", "marks")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self.tracker.connect(self.progress)
