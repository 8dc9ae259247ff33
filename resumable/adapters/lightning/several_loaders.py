"""From a saved state to the place of each train loader: all of them can go on, or nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resumable.errors import MismatchError, explain
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


def stretch_of(lane: TrainLoader, accumulation: int, /) -> Stretch:
    """The configuration that *lane* trains in."""
    return Stretch(
        length=lane.batching.length,
        micro_batch_size=lane.micro_batch_size,
        data_parallel_size=lane.shard.size,
        accumulation=accumulation,
        num_workers=lane.num_workers,
        drop_last=lane.batching.drop_last,
        limit=lane.batching.limit,
    )


def resolve_loaders(
    combined: LoaderGroup, saved: Snapshot, stretches: Sequence[Stretch], policy: Policy, /
) -> GroupStart:
    """Where the loaders of *combined* go on from *saved*, each in the configuration of its stretch.

    Raises:
        MismatchError: if one of them cannot go on exactly, and the policy is "error".
    """
    if saved.loaders and len(saved.loaders) != len(combined.lanes):
        raise MismatchError(
            explain(
                "Another number of train loaders.",
                [("saved", len(saved.loaders)), ("current", len(combined.lanes))],
                "Return the loaders that the run began with. Nothing was loaded.",
            )
        )
    position, verdict = Position(), Verdict()
    places: list[LoaderPosition] = []
    orders: list[Identity | None] = []
    for number, lane in enumerate(combined.lanes):
        is_primary = number == combined.primary
        own = _own_part(saved, number, is_primary=is_primary)
        if own.order is not None and lane.identity is None:
            lane.adopt(own.order)  # a stream says that it cannot
        order = lane.identity or Identity("stream", lane.batching.length)
        regrouping = _of_other_ranks(lane, saved, own)
        if regrouping is not None:
            refuse_or_warn(regrouping, policy.on_mismatch)
        found = resolve(
            own if own.order is None else own._replace(order=_comparable(own.order, lane, saved)),
            order,
            stretches[number],
            policy,
        )
        at, state = found.position, None
        if is_primary:
            position, verdict = at, regrouping or found.verdict
        if saved.loaders:
            state = saved.loaders[number].state
            if not is_primary and not combined.is_cycled(number):
                at = Position(0, saved.loaders[number].epoch, saved.loaders[number].offset)  # it waits at its end
        places.append(LoaderPosition(at.epoch, at.offset, found.order, state))
        orders.append(None if lane.identity is None else found.order)
    if saved.canary is not None and saved.position is not None:
        stood = saved.loaders or (LoaderPosition(saved.position.epoch, saved.position.offset),)
        canary = canary_of(combined.lanes, orders, stood, looks=True)
        verdict = with_canary(verdict, saved.canary, canary, policy.on_mismatch)
    return GroupStart(position, verdict, tuple(places), tuple(orders))


def canary_of(
    lanes: Sequence[TrainLoader],
    orders: Sequence[Identity | None],
    at: Sequence[LoaderPosition],
    /,
    *,
    looks: bool = False,
) -> str | None:
    """The canary of one loader at its place, or one of the canaries of several; None where it is not known yet.

    A sampler that has not begun its epoch has none until somebody *looks*. A loader of which each rank has its own part
    never has one, so it is left out.
    """
    found = [
        lane.canary(order, place, looks=looks)
        for lane, order, place in zip(lanes, orders, at, strict=True)
        if len(lanes) == 1 or not (lane.shard.is_drawn or lane.identity is None)
    ]
    told = [canary for canary in found if canary is not None]
    if len(told) < len(found) or not told:
        return None
    return told[0] if len(lanes) == 1 else digest_of(told)


def _own_part(saved: Snapshot, number: int, *, is_primary: bool) -> Snapshot:
    """What *saved* says of the loader of this number."""
    own = saved
    if saved.loaders:
        place = saved.loaders[number]
        own = saved._replace(order=place.order, epoch=place.epoch, offset=place.offset)
    elif not is_primary and saved.epoch is None:
        own = saved._replace(order=None)
    return own if is_primary else own._replace(ledger=Snapshot().ledger)


def _ranks_of(saved: Snapshot, lane: TrainLoader) -> int:
    """How many ranks saved it; where it does not say, as many as there are."""
    stretches = saved.ledger.stretches
    return stretches[-1].data_parallel_size if stretches else lane.shard.size


def _of_other_ranks(lane: TrainLoader, saved: Snapshot, own: Snapshot) -> Verdict | None:
    """Why a loader that yields one rank's samples alone cannot go on in mid-epoch on another number of ranks."""
    ranks = _ranks_of(saved, lane)
    if not own.offset or ranks == lane.shard.size or not (lane.shard.is_drawn or lane.identity is None):
        return None
    yields = "It streams" if lane.identity is None else "Its sampler, or the user, shares the data out"
    difference = Difference(
        f"{yields}, so what each rank is given depends on the number of ranks.",
        f"{ranks} ranks",
        f"{lane.shard.size} ranks",
        "Go on with as many ranks, or at an epoch's end; or give a plain loader, which is shared out by itself.",
    )
    return Verdict("inexact", (difference,))


def _comparable(order: Identity, lane: TrainLoader, saved: Snapshot) -> Identity:
    """The saved order as this rank would have saved it: what each rank has for itself may be longer on another."""
    if lane.shard.is_drawn and (lane.shard.rank or _ranks_of(saved, lane) != lane.shard.size):
        return replace(order, length=lane.batching.length)
    return order


@dataclass(frozen=True, slots=True)
class LoaderGroup:
    """The train loaders, in Lightning's *mode*; the end of the *primary* one is the epoch's end."""

    lanes: tuple[TrainLoader, ...]
    mode: str
    primary: int
    is_finite: bool = True

    def place(self, number: int, at: LoaderPosition, batches: int, *, ended: bool) -> LoaderPosition:
        """Where *batches* batches lead lane *number* from *at*; with *ended*, the epoch's end starts a pass."""
        lane, state = self.lanes[number], at.state
        if batches:
            kept = lane.state_at(at.offset // lane.batching.batch_size + batches)
            state = state if kept is None else kept
        if self.is_cycled(number):
            to = lane.batching.advance(Position(0, at.epoch, at.offset), batches)
            epoch, offset = to.epoch, to.offset
        else:
            epoch, offset = at.epoch, lane.batching.offset_after(at.offset, batches)
        if ended and offset:
            epoch, offset = epoch + 1, 0
        return LoaderPosition(epoch, offset, lane.identity, state)

    def is_cycled(self, number: int) -> bool:
        """Whether Lightning begins the lane again while the epoch lasts."""
        return self.mode == "max_size_cycle" and number != self.primary


def combine(lanes: Sequence[TrainLoader], mode: str, limit: int | float, /) -> LoaderGroup:
    """*lanes* as Lightning combines them under its `limit_train_batches`, which becomes the primary one's.

    The primary is the shortest of `min_size`, else the longest, the first of several.
    """
    lengths = [_limited(lane.batching, limit) for lane in lanes]
    primary = lengths.index((min if mode == "min_size" else max)(lengths))
    if lengths[primary] < lanes[primary].batching.batches:
        lanes[primary].limit(int(lengths[primary]))
    return LoaderGroup(tuple(lanes), mode, primary, is_finite=math.inf not in lengths)


def _limited(batching: BatchPlan, limit: int | float) -> int | float:
    """Batches of an epoch under Lightning's `limit_train_batches`, an int for a number and a float for a share."""
    if batching.length >= UNBOUNDED:
        return limit if isinstance(limit, int) else math.inf
    return min(batching.batches, limit) if isinstance(limit, int) else int(batching.batches * limit)
