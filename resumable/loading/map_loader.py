"""A trainer's train loaders, each with a place of its own: what `attach` makes of the DataLoaders that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from resumable.errors import ConfigurationError, DecorationError, explain
from resumable.feeds.feed import Feed, RankSampler, ResumableSampler, SequentialRankSampler, Shard
from resumable.feeds.from_dataloader import feed_of, in_order
from resumable.loading.arguments import check_in_order
from resumable.loading.dataloader import Iterate, SeekableLoader, install, resuming
from resumable.loading.loop_progress import LoopProgress
from resumable.orders.identity import Identity
from resumable.orders.permutation import stream_key
from resumable.progress import Tracker
from resumable.saved.snapshot import LoaderPosition
from resumable.steps.batch_plan import BatchPlan

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["TrainLoader", "LoaderStarts", "MapLoader", "seed_of_loader"]


class LoaderStarts(Protocol):
    """Who tells a lane where its next pass starts."""

    def start_of(self, lane: TrainLoader, /) -> LoaderPosition:
        """The place of the next batch that *lane* has to yield."""
        ...

    def batches_of(self, lane: TrainLoader, /) -> int | None:
        """How many batches the pass has that begins there; None for all to the epoch's end."""
        ...


class TrainLoader(Protocol):
    """One train loader, and how its epochs fall into batches."""

    loader: Any
    num_workers: int
    shard: Shard

    @property
    def batching(self) -> BatchPlan:
        """How an epoch falls into batches of all ranks together."""
        ...

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        ...

    @property
    def identity(self) -> Identity | None:
        """What the order depends on; None for a stream."""
        ...

    def adopt(self, identity: Identity, /) -> None:
        """Go on in the order that *identity* tells."""
        ...

    def padded_samples(self, offset: int, /) -> int:
        """Samples that the end of an epoch trains again in a pass from *offset* on; see `Feed.padded_samples`."""
        ...

    def canary(self, order: Identity | None, at: LoaderPosition, /, *, looks: bool = False) -> str | None:
        """The digest of the indices that follow *at* in *order*; see `Feed.canary`."""
        ...

    def limit(self, batches: int, /) -> None:
        """Let an epoch have at most so many batches."""
        ...

    def follow(self, source: LoaderStarts, /, *, endless: bool) -> None:
        """Start each pass where *source* says; with *endless*, go on with the next epoch instead of ending."""
        ...

    def state_at(self, batches: int, /) -> object:
        """What the dataset saved of itself when *batches* batches of the present pass were yielded."""
        ...


class MapLoader:
    """A DataLoader over a map-style dataset, changed in place so that its passes start anywhere, on any rank."""

    def __init__(self, loader: DataLoader[Any], seed: int, shard: Shard) -> None:
        check_in_order(loader.num_workers, getattr(loader, "in_order", True), DecorationError)
        self.feed: Feed
        self.shard: Shard
        self.feed, self.shard = feed_of(loader, seed, shard)
        if not self.feed.batching.batches and self.shard.size > 1:
            raise _no_round(self.feed, self.shard)
        self.num_workers: int = loader.num_workers
        self._is_single = loader.batch_sampler is None
        self._sampler = ResumableSampler(self.feed, single=self._is_single)
        self._shown = RankSampler
        self.loader: SeekableLoader[Any] = resuming(loader)

    @property
    def batching(self) -> BatchPlan:
        """How an epoch falls into batches of all ranks together."""
        return self.feed.batching

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.feed.micro_batch_size

    def limit(self, batches: int, /) -> None:
        """Let an epoch have at most so many batches."""
        self.feed.batching = replace(self.batching, limit=batches)

    @property
    def identity(self) -> Identity:
        """What the order depends on."""
        return self.feed.identity

    def adopt(self, identity: Identity, /) -> None:
        """Go on in the order that *identity* tells."""
        self.feed.adopt(identity)

    def padded_samples(self, offset: int, /) -> int:
        """Samples that the end of an epoch trains again in a pass from *offset* on; see `Feed.padded_samples`."""
        return self.feed.padded_samples(offset)

    def canary(self, order: Identity | None, at: LoaderPosition, /, *, looks: bool = False) -> str | None:
        """The digest of the indices that follow *at* in *order*; see `Feed.canary`."""
        return self.feed.canary(order or self.identity, at.epoch, at.offset, looks=looks)

    def follow(self, source: LoaderStarts, /, *, endless: bool) -> None:
        """Start each pass where *source* says."""
        self._sampler.endless = endless

        def passes(iterate: Iterate[Any]) -> Iterator[Any]:
            at = source.start_of(self)
            self._sampler.start = (at.epoch, at.offset)
            self._sampler.count = source.batches_of(self)
            return iterate()

        install(self.loader, self._sampler, passes)
        vars(self.loader)["_resumable_schedule"] = None  # a ResumableLoader has counted by itself
        if self.shard.is_guarded or self._shown is SequentialRankSampler:
            vars(self.loader)["sampler"] = self._shown(self._sampler, self.shard, single=self._is_single)

    def follow_loop(self, progress: LoopProgress, tracker: Tracker, /) -> None:
        """Start each pass where a loop's own count stands, and count it; the loader saves and loads *tracker*.

        The loader that is iterated is the one that counts: another may have been asked for in the meantime.
        """

        def passes(iterate: Iterate[Any]) -> Iterator[Any]:
            tracker.switch_to(progress)
            return progress.passes(self._sampler, iterate)

        install(self.loader, self._sampler, passes)
        vars(self.loader).update(
            state_dict=tracker.agreed_state_dict,
            load_state_dict=tracker.load,
            _resumable_schedule=None if progress.stretch.schedule is None else progress,
        )

    def state_at(self, batches: int, /) -> object:
        """A map-style dataset has no state of its own."""
        return None

    def in_order(self) -> None:
        """Leave out the shuffling, as Lightning asks for when it overfits some batches on purpose."""
        self.feed = self._sampler.feed = in_order(self.feed, self.shard)
        self._shown = SequentialRankSampler


def _no_round(feed: Feed, shard: Shard) -> ConfigurationError:
    return ConfigurationError(
        explain(
            "An epoch has no batch for every rank, so the run could never end.",
            [
                ("dataset length", feed.batching.length),
                ("batch_size", feed.micro_batch_size),
                ("ranks", shard.size),
                ("drop_last", feed.batching.drop_last),
            ],
            "Use fewer ranks or a smaller batch_size, or drop_last=False.",
        )
    )


def seed_of_loader(seed: int, number: int, /) -> int:
    """The seed of the *number*-th of several loaders, so that equally long ones are not shuffled alike.

    >>> seed_of_loader(7, 0)
    7
    """
    return stream_key(number, seed, epoch=0) if number else seed
