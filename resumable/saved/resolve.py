"""From a saved state and the present configuration to the position to go on from, or an error that says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from resumable.errors import ConfigurationError, MismatchError, warn
from resumable.orders.identity import CYCLIC, Identity
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import Difference, OnMismatch, Verdict

__all__ = [
    "Policy",
    "ResumePoint",
    "compare",
    "refuse_or_warn",
    "refuse_several",
    "regrouped",
    "resolve",
    "with_canary",
    "with_reseed",
]


_ANOTHER_FINGERPRINT = (
    "The dataset has another fingerprint than the run began with, while the rows that were compared are equal."
)
_MAY_DIFFER = (
    "Other rows may differ, or what is made of them: a transform, a format. If the data is the same, all is well: fingerprints "
    "also change with releases of datasets, and at random where it cannot hash a function."
)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The position to go on from, in which order, and how exactly; and the seed of the random numbers, if they have one."""

    position: Position
    order: Identity
    verdict: Verdict
    reseed: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user wants where a saved state differs from the present configuration.

    With *seed_is_given*, the user chose the present seed, so the saved one does not replace it.

    Raises:
        ConfigurationError: for an unknown *on_mismatch*.

    >>> Policy(on_mismatch="adopt")
    Policy(seed_is_given=False, on_mismatch='adopt')
    """

    seed_is_given: bool = False
    on_mismatch: OnMismatch = "error"

    def __post_init__(self) -> None:
        if self.on_mismatch not in ("error", "warn", "adopt"):
            raise ConfigurationError(
                "An unknown policy.", [("on_mismatch", self.on_mismatch)], "Pass 'error', 'warn' or 'adopt'."
            )


def refuse_several(saved: Snapshot, /) -> None:
    """Raise MismatchError if *saved* holds the positions of several loaders, or of a stream, for a progress of one order.

    >>> refuse_several(Snapshot())
    """
    if saved.loaders:
        raise MismatchError(
            "The state is that of several train loaders, or of a stream.",
            [
                ("loaders", [(at.epoch, at.offset, at.order) for at in saved.loaders]),
                ("current", "one order"),
            ],
            "Load it into the datamodule whose loaders the run began with. Nothing was loaded.",
        )


def resolve(
    saved: Snapshot,
    order: Identity,
    stretch: Stretch,
    policy: Policy,
    /,
    plan_of: Callable[[Identity], BatchPlan] | None = None,
) -> ResumePoint:
    """The position in *order* at which a run that saved *saved* goes on, in batches of *stretch* or of *plan_of* an order.

    The saved seed replaces the present one, unless the user chose that. Under "adopt" the saved kind and seed always
    do; a dataset of another length gets a warning.

    Raises:
        MismatchError: if the resume cannot be exact and the policy is "error", or no position is left to go on from.
    """
    then, position = saved.order or order, saved.position
    if policy.on_mismatch == "adopt":
        order = replace(then, length=order.length, contents=order.contents)
    elif then.kind == order.kind and not policy.seed_is_given:
        order = replace(order, seed=then.seed)
    plan = stretch.plan if plan_of is None else plan_of(order)
    is_drawn = isinstance(plan, BatchPlan) and plan.is_drawn  # an epoch may be longer than its dataset
    verdict = compare(then, order, offset=0 if is_drawn else saved.offset or 0, regrouped=regrouped(saved, stretch))
    reseed, verdict = with_reseed(verdict, saved, stretch.reseed, policy)
    refuse_or_warn(verdict, policy.on_mismatch)
    is_known = None not in (then.contents, order.contents)
    if is_known and then.contents != order.contents and then.rows_digest == order.rows_digest:
        warn(_ANOTHER_FINGERPRINT, [("saved", then.contents), ("current", order.contents)], _MAY_DIFFER)
    at = plan.position_at(saved.consumed_samples) if position is None else plan.canonical(position)
    return ResumePoint(at, order, verdict, reseed)


def with_reseed(verdict: Verdict, saved: Snapshot, now: int | None, policy: Policy, /) -> tuple[int | None, Verdict]:
    """The seed that random numbers go on with, and *verdict* once it is compared with the saved one.

    A run that begins to seed them in its middle loses nothing.

    >>> with_reseed(Verdict(), Snapshot(), 7, Policy())
    (7, Verdict(outcome='exact', differences=()))
    """
    last = saved.ledger.stretches[-1:]
    then = last[0].reseed if last else None
    if then in (None, now):
        return now, verdict
    if policy.on_mismatch == "adopt" or (now is not None and not policy.seed_is_given):
        return then, verdict
    what, advice = "The random numbers have another seed.", f"Pass seed={then}, or pass no seed."
    if now is None:
        what = "The random numbers no longer follow the position, as they did from the saved seed."
        advice = "Pass reseed=True, as the run did."
    differences = (Difference(what, then, now, advice), *verdict.differences)
    return now, Verdict("inexact" if verdict.is_exact else verdict.outcome, differences)


def regrouped(saved: Snapshot, current: Stretch | None, /) -> tuple[Difference, ...]:
    """What *current* groups in another way than the last stretch of *saved*; nothing where one of them is unknown."""
    if current is None or not saved.ledger.stretches:
        return ()
    last = saved.ledger.stretches[-1]
    same = _kept(last, current)
    recount = f"{same} Only its own program can count the saved schedule's steps, so they are counted from here on."
    names = {
        "micro_batch_size": ("Another micro batch size.", same),
        "data_parallel_size": ("Another number of data-parallel ranks.", same),
        "accumulation": ("Another number of accumulated batches.", same),
        "schedule": ("Another schedule of batch sizes.", recount if last.is_unknown else same),
        "drop_last": (
            "Another rule for the end of an epoch.",
            "The order stays the same; what its end trains may not.",
        ),
    }
    return tuple(
        Difference(what, getattr(last, name), getattr(current, name), advice)
        for name, (what, advice) in names.items()
        if getattr(last, name) != getattr(current, name)
    )


def _kept(saved: Stretch, current: Stretch) -> str:
    """What another grouping keeps: everything, unless epochs leave out a tail, which depends on the batches."""
    if saved.drop_last is True and current.drop_last is True:
        then, now = (plan.offset_after(0, plan.batches) for plan in (saved.batching, current.batching))
        if saved.schedule or current.schedule or then != now:
            return "The order stays the same; the tail that drop_last=True leaves out of an epoch may not."
    return "The samples and their order stay the same."


def with_canary(verdict: Verdict, saved: str | None, current: str | None, on_mismatch: OnMismatch, /) -> Verdict:
    """*verdict*, once the canaries of the indices that come next are compared too.

    Raises:
        MismatchError: if they differ and *on_mismatch* is "error".

    >>> with_canary(Verdict(), "5eed0f1e", "5eed0f1e", "error").outcome
    'exact'
    """
    if not verdict.is_exact or saved is None or current is None or saved == current:
        return verdict
    others = Difference(
        "The indices that come next are not those that the saved run would have trained.",
        saved,
        current,
        "The order has changed under the same name: use the release of the library, the sampler or order, and the data "
        "that the run began with.",
    )
    found = Verdict("inexact", (others, *verdict.differences))
    refuse_or_warn(found, on_mismatch)
    return found


def refuse_or_warn(verdict: Verdict, on_mismatch: OnMismatch, /) -> None:
    """Return on an exact verdict; otherwise raise or warn, as the policy says.

    Raises:
        MismatchError: under "error", and always where there is no position to go on from.
    """
    if verdict.is_exact:
        return
    if verdict.outcome == "refused" or on_mismatch == "error":
        advice = "Nothing was loaded."
        if verdict.outcome != "refused":
            advice += ' To go on all the same, pass on_mismatch="warn", or "adopt" to take over what was saved.'
        raise MismatchError(f"This state cannot go on exactly: {verdict}\n{advice}", verdict=verdict)
    warn(f"The run goes on, but this resume is {verdict}")


def compare(saved: Identity, current: Identity, /, *, offset: int, regrouped: tuple[Difference, ...] = ()) -> Verdict:
    """The verdict on going on at *offset* of an epoch of *saved* in the order *current*.

    *regrouped* are differences in how the samples are grouped, which keep the resume exact in its order.

    >>> compare(Identity("shuffled", 100, 1), Identity("shuffled", 50, 1), offset=60).outcome
    'refused'
    """
    kind_advice = "Pass the sampler, order or shuffle= that the run began with."
    if saved.kind.startswith(CYCLIC) and current.kind.startswith(CYCLIC):
        kind_advice = (
            'Megatron shuffles "cyclic" data by data_parallel_size and micro_batch_size: go on with the saved ones.'
        )
    seed_advice = f"Pass seed={saved.seed}, or pass no seed: the saved one is taken over."
    length_advice = "Give the run the dataset that it began with, or begin a new run."
    rows: list[tuple[str, object, object, str]] = [
        ("The order is of another kind.", saved.kind, current.kind, kind_advice),
        ("The dataset has another length.", saved.length, current.length, length_advice),
    ]
    if None not in (saved.rows_digest, current.rows_digest) and saved.rows_digest != current.rows_digest:
        rows.append(("The dataset has other contents.", saved.contents, current.contents, length_advice))
    if saved.kind == current.kind:
        rows.append(("The order has another seed.", saved.seed, current.seed, seed_advice))
    found = tuple(Difference(*row) for row in rows if row[1] != row[2])
    if offset > current.length:
        past = Difference("The saved offset is past the end.", offset, current.length, "Nothing is left to go on with.")
        return Verdict("refused", (*found, past))
    if found:
        return Verdict("inexact", (*found, *regrouped))
    return Verdict("regrouped" if regrouped else "exact", regrouped)
