"""From a saved state to the position of each train loader: all of them can go on, or nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resumable.errors import MismatchError
from resumable.loading.map_loader import TrainLoader
from resumable.orders.canary import digest_of
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, refuse_or_warn, resolve, with_canary
from resumable.saved.snapshot import LoaderPosition, Snapshot
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from resumable.verdict import Difference, Verdict

__all__ = ["LoaderGroup", "GroupStart", "canary_of", "combine", "resolve_loaders", "stretch_of"]


@dataclass(frozen=True, slots=True)
class GroupStart:
    """Where the run goes on, and each of its loaders, in which order."""

    position: Position
    verdict: Verdict
    places: tuple[LoaderPosition, ...]
    orders: tuple[Identity | None, ...]
    reseed: int | None = None


def stretch_of(loader: TrainLoader, accumulation: int, /) -> Stretch:
    """The configuration that *loader* trains in."""
    plan = loader.feed.plan
    stretch = Stretch(
        length=plan.length,
        micro_batch_size=loader.feed.micro_batch_size,
        data_parallel_size=loader.shard.size,
        accumulation=accumulation,
        num_workers=loader.num_workers,
        drop_last=plan.drop_last,
        limit=plan.limit,
        reseed=loader.reseed,
    )
    return loader.feed.noted(stretch)


def resolve_loaders(group: LoaderGroup, saved: Snapshot, stretches: Sequence[Stretch], policy: Policy, /) -> GroupStart:
    """Where the loaders of *group* go on from *saved*, each in the configuration of its stretch.

    Raises:
        MismatchError: if one of them cannot go on exactly, and the policy is "error".
    """
    if saved.loaders and len(saved.loaders) != len(group.loaders):
        raise MismatchError(
            "Another number of train loaders.",
            [("saved", len(saved.loaders)), ("current", len(group.loaders))],
            "Return the loaders that the run began with. Nothing was loaded.",
        )
    position, verdict, reseed = Position(), Verdict(), group.loaders[group.primary].reseed
    places: list[LoaderPosition] = []
    orders: list[Identity | None] = []
    for number, loader in enumerate(group.loaders):
        is_primary = number == group.primary
        own = loader.feed.as_counted(_own_part(saved, number, is_primary=is_primary))
        identity = loader.feed.identity
        if own.order is not None and identity is None:
            loader.feed.adopt(own.order)  # a stream says that it cannot
        order = identity or Identity("stream", loader.feed.plan.length)
        regrouping = _of_other_ranks(loader, saved, own)
        if regrouping is None and group.is_cycled(number):
            batches = (saved.offset or 0) // group.loaders[group.primary].feed.plan.batch_size
            regrouping = _begun_again(loader, own, batches, is_finite=group.is_finite)
        if regrouping is not None:
            refuse_or_warn(regrouping, policy.on_mismatch)
        found = resolve(
            own if own.order is None else own._replace(order=_comparable(own.order, loader, saved)),
            order,
            loader.feed.noted(stretches[number]),
            policy,
            loader.feed.plan_of if stretches[number].schedule is None or stretches[number].is_unknown else None,
        )
        at, state, check = found.position, None, None
        if is_primary:
            position, verdict, reseed = at, regrouping or found.verdict, found.reseed
        if saved.loaders:
            state, check = saved.loaders[number].state, saved.loaders[number].check
            if not is_primary and not group.is_cycled(number):
                at = Position(0, own.epoch or 0, own.offset or 0)  # it waits at its end
        orders.append(None if identity is None else found.order)
        places.append(LoaderPosition(at.epoch, at.offset, orders[-1], state, check))
    if saved.canary is not None and saved.position is not None:
        stood = saved.loaders or (LoaderPosition(saved.position.epoch, saved.position.offset),)
        canary = canary_of(group.loaders, orders, stood, looks=True)
        verdict = with_canary(verdict, saved.canary, canary, policy.on_mismatch)
    return GroupStart(position, verdict, tuple(places), tuple(orders), reseed)


def canary_of(
    loaders: Sequence[TrainLoader],
    orders: Sequence[Identity | None],
    at: Sequence[LoaderPosition],
    /,
    *,
    looks: bool = False,
) -> str | None:
    """The canary of one loader at its position, or one of the canaries of several; None where it is not known yet.

    A user's sampler that has not begun its epoch has none, unless it *looks*. A loader of which each rank has its own
    part never has one, so it is left out.
    """
    found = [
        loader.feed.canary(order, place.epoch, place.offset, looks=looks)
        for loader, order, place in zip(loaders, orders, at, strict=True)
        if order is not None and not loader.shard.already_sharded
    ]
    known = [canary for canary in found if canary is not None]
    if len(known) < len(found) or not known:
        return None
    return known[0] if len(loaders) == 1 else digest_of(known)


def _own_part(saved: Snapshot, number: int, *, is_primary: bool) -> Snapshot:
    """What *saved* says of the loader of this number."""
    own = saved
    if saved.loaders:
        place = saved.loaders[number]
        own = saved._replace(order=place.order, epoch=place.epoch, offset=place.offset)
    elif not is_primary and saved.epoch is None:
        own = saved._replace(order=None)
    return own if is_primary else own._replace(ledger=Snapshot().ledger)


def _ranks_of(saved: Snapshot, loader: TrainLoader) -> int:
    """How many ranks saved it; where it does not say, as many as there are."""
    stretches = saved.ledger.stretches
    return stretches[-1].data_parallel_size if stretches else loader.shard.size


def _of_other_ranks(loader: TrainLoader, saved: Snapshot, own: Snapshot) -> Verdict | None:
    """Why a loader that yields one rank's samples alone cannot go on in mid-epoch on another number of ranks."""
    ranks, is_stream = _ranks_of(saved, loader), loader.feed.identity is None
    if not own.offset or ranks == loader.shard.size or not (loader.shard.already_sharded or is_stream):
        return None
    yields = "It streams" if is_stream else "Its sampler, or the user, shares the data out"
    difference = Difference(
        f"{yields}, so what each rank is given depends on the number of ranks.",
        f"{ranks} ranks",
        f"{loader.shard.size} ranks",
        "Go on with as many ranks, or at an epoch's end; or give a plain loader, which is shared out by itself.",
    )
    return Verdict("inexact", (difference,))


def _begun_again(loader: TrainLoader, own: Snapshot, batches: int, *, is_finite: bool) -> Verdict | None:
    """Why an epoch cannot go on, *batches* batches of which are trained, if a loader of an unknown end was begun again.

    Where all loaders have lengths, the group *is_finite*, and the epoch ends with the longest.
    """
    plan = loader.feed.plan
    given = plan.done(Position(0, own.epoch or 0, own.offset or 0))
    if (plan.length < UNBOUNDED and is_finite) or given == batches:
        return None
    difference = Difference(
        "Beside a stream of unknown length, a train loader was begun again, and Lightning ends an epoch once it has seen "
        "the end of each.",
        f"{given} batches of its pass",
        f"{batches} batches of the epoch",
        "Give the streams a length, or combine the loaders by CombinedLoader(..., mode='min_size').",
    )
    return Verdict("inexact", (difference,))


def _comparable(order: Identity, loader: TrainLoader, saved: Snapshot) -> Identity:
    """The saved order as this rank would have saved it: each rank's own part may have another length."""
    if loader.shard.already_sharded and (loader.shard.rank or _ranks_of(saved, loader) != loader.shard.size):
        return replace(order, length=loader.feed.plan.length)
    return order


@dataclass(frozen=True, slots=True)
class LoaderGroup:
    """The train loaders, in Lightning's *mode*; the end of the *primary* one is the epoch's end."""

    loaders: tuple[TrainLoader, ...]
    mode: str
    primary: int
    is_finite: bool = True

    def place(self, number: int, at: LoaderPosition, batches: int, *, ended: bool) -> LoaderPosition:
        """Where *batches* batches lead loader *number* from *at*; with *ended*, the epoch's end starts a pass."""
        loader, state, check = self.loaders[number], at.state, at.check
        plan = loader.feed.plan
        kept = loader.place_at(at.offset // plan.batch_size + batches) if batches else None
        if kept is not None:
            state, check = kept.state, kept.check
        elif batches:
            check = None
        if kept is not None and self.is_cycled(number) and plan.length >= UNBOUNDED:
            epoch, offset = kept.epoch, kept.offset  # only the stream knows where its passes end
        elif self.is_cycled(number):
            to = plan.advance(Position(0, at.epoch, at.offset), batches)
            epoch, offset = to.epoch, to.offset
        else:
            epoch, offset = at.epoch, plan.offset_after(at.offset, batches, at.epoch)
        if ended and offset:
            epoch, offset = epoch + 1, 0
        return LoaderPosition(epoch, offset, loader.feed.identity, state, check)

    def samples(self, number: int, at: LoaderPosition, batches: int, /) -> int:
        """The samples of loader *number* in the *batches* batches that follow *at*."""
        plan = self.loaders[number].feed.plan
        if self.is_cycled(number):
            return plan.advance(Position(0, at.epoch, at.offset), batches).consumed_samples
        return plan.offset_after(at.offset, batches, at.epoch) - at.offset

    def is_cycled(self, number: int) -> bool:
        """Whether Lightning begins the loader again while the epoch lasts."""
        has_length = self.loaders[number].feed.plan.length < UNBOUNDED
        return self.mode == "max_size_cycle" and not (number == self.primary and (has_length or len(self.loaders) == 1))


def combine(loaders: Sequence[TrainLoader], mode: str, limit: int | float, /) -> LoaderGroup:
    """*loaders* as Lightning combines them under its `limit_train_batches`, which becomes the primary one's.

    The primary is the shortest in the mode `min_size`, otherwise the longest; of several, the first.
    """
    lengths = [_limited(loader.feed.plan, limit) for loader in loaders]
    primary = lengths.index((min if mode == "min_size" else max)(lengths))
    feed = loaders[primary].feed
    if lengths[primary] < feed.plan.batches:
        feed.plan = replace(feed.plan, limit=int(lengths[primary]))
    return LoaderGroup(
        tuple(loaders), mode, primary, is_finite=all(loader.feed.plan.length < UNBOUNDED for loader in loaders)
    )


def _limited(batching: BatchPlan, limit: int | float) -> int | float:
    """Batches of an epoch under Lightning's `limit_train_batches`, an int for a number and a float for a share."""
    if batching.length >= UNBOUNDED:
        return limit if isinstance(limit, int) else math.inf
    whole = replace(batching, limit=None).batches  # a share is one of the whole, also of a plan that is limited already
    return min(whole, limit) if isinstance(limit, int) else int(whole * limit)
