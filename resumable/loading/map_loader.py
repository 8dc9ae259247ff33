"""A train loader that was taken over: where it starts, and how its epochs fall into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from typing_extensions import override

from resumable.checks import length_if_known
from resumable.errors import ConfigurationError, DecorationError, warn
from resumable.feeds.feed import Feed, ResumableSampler, Shard, StreamGrouping
from resumable.feeds.from_dataloader import feed_of
from resumable.feeds.order_feed import OrderFeed
from resumable.loading.arguments import check_in_order
from resumable.loading.contents import contents_of
from resumable.loading.dataloader import Iterate, SeekableLoader, install, seekable
from resumable.loading.loop_passes import HandOver, LoopPasses
from resumable.loading.loop_progress import LoopProgress, loop_progress_of
from resumable.loading.stream_state import state_of
from resumable.loading.trainer_loops import trainer_loop
from resumable.orders.permutation import stream_key
from resumable.position import Position
from resumable.progress import Tracker
from resumable.saved.snapshot import LoaderPosition
from resumable.stopping.workers import keep_apart
from resumable.verdict import OnMismatch

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["MapLoader", "TrainLoader", "seed_of_loader"]


_KEEPS_STATE: Final = (
    "A StatefulDataLoader would save what this map-style dataset says of itself, and here the position alone is saved: a "
    "resumed run has the same indices, and a dataset as it was made."
)
_LET_IT_FOLLOW: Final = (
    "Let the samples follow from index and epoch (pass_epoch=True), or save the dataset's state in a hook of yours."
)
_ASK_AGAIN: Final = "Let the trainer ask for it again in each epoch: reload_dataloaders_every_n_epochs=1."
_BETWEEN_EPOCHS: Final = (
    "Change it between two epochs, and let a decorated datamodule return one loader; or let the trainer ask for it again in "
    "each epoch: reload_dataloaders_every_n_epochs=1."
)


class TrainLoader(Protocol):
    """One train loader of a trainer's; *loader* is what the trainer iterates."""

    loader: Any
    num_workers: int
    is_cycled: bool = False
    """Whether the trainer begins it again while its epoch lasts."""
    reseed: int | None = None
    """The seed of the run's random numbers; None where they do not follow the position."""
    number: int = 0
    """Which of several train loaders it is."""

    @property
    def samples_seed(self) -> int | None:
        """The seed of its samples' random numbers: equal indices of several loaders draw other ones."""
        return None if self.reseed is None else seed_of_loader(self.reseed, self.number)

    @property
    def feed(self) -> Feed | StreamGrouping:
        """How its samples fall into batches of all ranks together, and what their order depends on."""
        ...

    @property
    def shard(self) -> Shard:
        """Which part of the data it yields."""
        return self.feed.shard

    def follow(self, start: Callable[[], LoaderPosition], count: Callable[[], int | None], /) -> None:
        """Start each pass at *start*(), and end it after *count*() batches; None is the epoch's end."""
        ...

    def place_at(self, batches: int, /) -> LoaderPosition | None:
        """Where a stream was when it had yielded *batches* batches since its epoch began, and what it saved of itself."""
        return None

    def mark(self) -> None:
        """The trainer's next epoch begins with the next pass."""
        return


class MapLoader(TrainLoader):
    """A DataLoader over a map-style dataset, changed in place so that its passes start anywhere, on any rank."""

    is_endless: bool = False
    """Whether a pass goes on with the next epoch: Lightning cycles a shorter loader beside a longer one."""
    go_on: Callable[[], bool] | None = None
    """Lets the run go on with the feed as it is now, of another length, if an epoch begins; otherwise returns False."""
    _at: LoaderPosition = LoaderPosition()
    _begins_epoch: bool = True

    def __init__(
        self,
        loader: DataLoader[Any],
        seed: int,
        shard: Shard,
        hand_over: HandOver,
        on_mismatch: OnMismatch = "error",
    ) -> None:
        self._hand_over = hand_over  # of copies
        check_in_order(loader.num_workers, getattr(loader, "in_order", True), DecorationError)
        is_torchdatas = any(base.__module__.startswith("torchdata.") for base in type(loader).__mro__)
        if is_torchdatas and state_of(loader.dataset) is not None:
            warn(_KEEPS_STATE, [("dataset", type(loader.dataset).__name__)], _LET_IT_FOLLOW)
        self.feed = feed = feed_of(loader, seed, shard, on_mismatch=on_mismatch)
        if not feed.shard.already_sharded:  # each rank's part may have other contents
            feed.note_contents(contents_of(loader.dataset))
        if not feed.plan.batches and feed.shard.size > 1:
            raise ConfigurationError(
                "An epoch has no batch for every rank, so the run could never end.",
                [
                    ("dataset length", feed.plan.length),
                    ("batch_size", feed.micro_batch_size),
                    ("ranks", feed.shard.size),
                    ("drop_last", feed.plan.drop_last),
                ],
                "Use fewer ranks or a smaller batch_size, or drop_last=False.",
            )
        self.sampler: ResumableSampler = ResumableSampler(feed, single=loader.batch_sampler is None)
        self.num_workers: int = loader.num_workers
        self.watch_length(loader.dataset)
        self.loader: SeekableLoader[Any] = seekable(loader)

    @property
    @override
    def feed(self) -> Feed:
        return self._feed

    @feed.setter
    def feed(self, feed: Feed) -> None:
        self._feed = feed

    @override
    def follow(self, start: Callable[[], LoaderPosition], count: Callable[[], int | None], /) -> None:
        self._start, self._count = start, count
        install(self.loader, self.sampler, self)
        keep_apart(self.loader)
        vars(self.loader)["_resumable_schedule"] = None  # a ResumableLoader has counted by itself

    def __call__(self, iterate: Iterate[Any]) -> Iterator[Any]:
        """A pass of a trainer's."""
        loop = trainer_loop()
        self.sampler.reseed = self.samples_seed
        if loop is not None and not loop.trains:
            self.sampler.begin(self.feed, self.sampler.start, evaluates=True)
            return iterate(beside=loop.is_beside_training)
        has_samples = self._follow_length()
        at = self._start()
        if loop is not None and self.is_cycled:
            if not (self._begins_epoch or self.is_endless):  # begun again, while the trained position is further back
                at = LoaderPosition(self._at.epoch + 1)
            self._at, self._begins_epoch = at, False
        count = self._count() if has_samples else 0
        self.sampler.begin(self.feed, (at.epoch, at.offset), count, is_endless=self.is_endless and has_samples)
        return iterate()

    @override
    def mark(self) -> None:
        self._begins_epoch = True

    def watch_length(self, dataset: Any, /) -> None:
        """Notice where *dataset* becomes longer or shorter, if the feed is as long as it is now."""
        length = self.feed.plan.length
        is_whole = isinstance(self.feed, OrderFeed) and length == length_if_known(dataset)
        self._dataset: Any = dataset if is_whole else None
        self._made_for: int = length
        self._longest: int = length

    def _follow_length(self) -> bool:
        """Go on with a dataset of another length, up to that when the trainer asked for its loader; False if it is empty.

        Raises:
            ConfigurationError: for a shorter one, in the middle of an epoch.
        """
        feed = self.feed
        if self._dataset is None or not isinstance(feed, OrderFeed):
            return True
        now, then = len(self._dataset), feed.plan.length
        if now > self._longest:
            self._longest = now
            warn(
                "The dataset has become longer since its train loader was made: the epochs train as many as it had then.",
                [("length then", self._made_for), ("length now", now)],
                _ASK_AGAIN,
            )
        length = min(now, self._made_for)
        if length != then:
            if length:
                self.feed = feed.as_long_as(range(length))
            if self.go_on is None or not self.go_on():
                self.feed = feed
                if length < then:
                    raise ConfigurationError(
                        "The dataset has become shorter since its train loader was made.",
                        [("length then", then), ("length now", now)],
                        _BETWEEN_EPOCHS,
                    )
        return length > 0

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of the loader has no trainer: it goes on from here in a loop of its own."""
        at, feed, tracker = self._start(), copy(self.feed), Tracker()
        feed.plan = replace(feed.plan, limit=None)
        progress = loop_progress_of(feed, self.num_workers, reseed=self.reseed)
        per_epoch = feed.identity.length if feed.plan.is_drawn else feed.plan.offset_after(0, feed.plan.batches)
        consumed = at.epoch * per_epoch + at.offset
        progress.seek(feed.plan.canonical(Position(consumed, at.epoch, at.offset)), commits=False)
        tracker.follow(progress)
        return LoopPasses, (self.sampler, progress, tracker, self._hand_over)

    def follow_loop(self, progress: LoopProgress, tracker: Tracker, /) -> None:
        """Start each pass at a loop's own count, and count it; the loader saves and loads *tracker*.

        The loader that is iterated is the one that counts: the user may have asked for another in the meantime.
        """
        LoopPasses(self.sampler, progress, tracker, self._hand_over, dataset=self._dataset).install(self.loader)


def seed_of_loader(seed: int, number: int, /) -> int:
    """The seed of the *number*-th of several loaders, so that equally long ones are not shuffled alike.

    >>> seed_of_loader(7, 0)
    7
    """
    return stream_key(number, seed, epoch=0) if number else seed
