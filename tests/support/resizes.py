"""Lightning sessions on changing numbers of ranks, held against the rule."""

from __future__ import annotations

from tests.support.cuts import Cut
from tests.support.lightning_runs import Run, Scenario
from tests.support.rank_runs import Part, Session, orders_of, rounds_of, rule, run, trained

SCENARIO = Scenario()
ACCUMULATING = Scenario(samples=40, trainer={"max_epochs": 3, "accumulate_grad_batches": 2})
RESIZES = [(1, 2), (2, 1), (2, 3), (3, 2)]
WAYS = ["ddp", "fsdp", "fsdp2"]
NOT_SYNCED = "ignore:It is recommended to use `self.log:UserWarning"
"""The recording module logs each rank's own validation loss."""


def check(*sessions: tuple[Session, int | None]) -> Run:
    """A chain of sessions, each with the batches on each rank that it has processed when it is saved, follows the rule.

    So do the counters, and the lengths that Lightning and its users see in the epochs that the last session begins.
    """
    scenario = sessions[0][0].scenario
    orders, drop_last = orders_of(scenario), scenario.drop_last
    parts = [
        Part(s.ranks, batches, s.scenario.batch_size, s.scenario.trainer.get("accumulate_grad_batches", 1))
        for s, batches in sessions
    ]
    expected = rule(orders, *parts, drop_last=drop_last).steps
    actual = run(*(session for session, _ in sessions))
    assert expected == trained(actual)
    assert list(range(len(expected))) == [step.global_step for step in actual.steps]
    assert (len(orders), len(expected)) == (actual.current_epoch, actual.global_step)
    begins = rule(orders, *parts[:-1], drop_last=drop_last)
    begun = range(begins.epoch + (begins.offset > 0), len(orders))
    rounds = rounds_of(orders[0], parts[-1], drop_last=drop_last)
    assert dict.fromkeys(begun, (rounds, rounds)) == {epoch: actual.lengths[epoch] for epoch in begun}
    return actual


def resize(scenario: Scenario, cut: Cut, batches: int, ranks: tuple[int, int], way: str = "ddp") -> Run:
    """Two sessions, of so many ranks each."""
    before, after = ranks
    return check((Session(before, scenario, cut, way), batches), (Session(after, scenario, None, way), None))
