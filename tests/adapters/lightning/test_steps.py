"""Where a batch is not a step: accumulation, manual optimization, learning-rate schedules, and epochs cut short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resumable import ResumptionWarning
from tests.support.cuts import (
    Cut,
    also_with_workers,
    interrupted,
    raised_in,
    saved_after_step,
    saved_at_epoch_end,
    saved_at_validation,
    saved_in,
    sigterm,
    stopped,
)
from tests.support.lightning_runs import Scenario, check, repeated_and_lost, resumed, uninterrupted
from tests.support.recording import Budgeted, EndsEpochsEarly, Plateau, StepPlan, TwoOptimizers

BATCHES = range(7)


def accumulating(batches: int, *, limit: str = "max_epochs") -> Scenario:
    """28 samples by fours: seven batches an epoch, which windows of two and three do not divide."""
    limits = {"max_epochs": 3} if limit == "max_epochs" else {"max_epochs": -1, "max_steps": 21 // batches}
    return Scenario(samples=28, trainer={**limits, "accumulate_grad_batches": batches})


@pytest.fixture(scope="module", params=[2, 3])
def windows(request: pytest.FixtureRequest) -> Scenario:
    """Scenarios of one kind share their uninterrupted run."""
    return accumulating(request.param)


@pytest.fixture(scope="module", params=[2, 3])
def windows_by_steps(request: pytest.FixtureRequest) -> Scenario:
    """The same, limited by steps."""
    return accumulating(request.param, limit="max_steps")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("hook", ["on_train_batch_start", "training_step", "on_train_batch_end"])
def test_exception_at_each_place_of_a_window(windows: Scenario, hook: str, batch: int) -> None:
    """Gradients are not saved: the resume goes back to the last optimizer step, and to its place in the data."""
    check(windows, raised_in(hook, (1, batch)))


@pytest.mark.parametrize("batch", BATCHES)
def test_saved_at_each_place_of_a_window(windows: Scenario, batch: int) -> None:
    """The same where the session goes on behind the checkpoint."""
    check(windows, saved_in("on_train_batch_end", (1, batch)))


@pytest.mark.parametrize("batch", BATCHES)
def test_saved_at_each_place_of_a_window_with_max_steps(windows_by_steps: Scenario, batch: int) -> None:
    """The same under max_steps."""
    check(windows_by_steps, saved_in("on_train_batch_end", (0, batch)))


@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(2), saved_after_step(3)),
        (saved_at_epoch_end(0), saved_at_epoch_end(1)),
        (raised_in("training_step", (1, 2)), raised_in("training_step", (1, 2)), raised_in("training_step", (1, 4))),
        (raised_in("on_train_batch_end", (0, 4)), raised_in("on_train_batch_end", (1, 1))),
        (stopped((0, 2)),),
        (stopped((1, 0)),),
        (interrupted("training_step", (1, 1)),),
        (sigterm("training_step", (1, 1)),),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_accumulating_runs_cut_several_times(windows: Scenario, cuts: tuple[Cut, ...]) -> None:
    """What one resume takes back, the next must not take back again."""
    check(windows, *cuts)


@pytest.mark.parametrize("batch", [0, 2, 5])
def test_window_longer_than_the_epoch(batch: int) -> None:
    """Each epoch is one optimizer step: in mid-epoch, a resume goes back to its first batch."""
    check(Scenario(trainer={"accumulate_grad_batches": 10}), raised_in("training_step", (1, batch)))


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 30}], ids=str)
@also_with_workers
@pytest.mark.parametrize(
    "cut",
    [
        saved_after_step(6),
        saved_after_step(12),
        saved_at_epoch_end(0),
        raised_in("training_step", (1, 2)),
        raised_in("on_train_batch_end", (0, 5)),
    ],
    ids=str,
)
def test_manual_optimization_with_two_optimizers(cut: Cut, num_workers: int, limit: dict[str, int]) -> None:
    """`global_step` counts two for each batch; the data does not go by it."""
    check(Scenario(module=TwoOptimizers, num_workers=num_workers, trainer=limit), cut)


SCHEDULED = Scenario(module=StepPlan)
SCHEDULED_CUTS = [
    saved_after_step(3),
    saved_after_step(6),
    saved_after_step(8),
    saved_at_epoch_end(0),
    raised_in("training_step", (1, 0)),
    raised_in("training_step", (1, 3)),
    raised_in("on_train_batch_end", (0, 5)),
    raised_in("on_train_batch_end", (1, 2)),
    stopped((1, 2)),
]


@pytest.mark.parametrize("cut", SCHEDULED_CUTS, ids=str)
def test_learning_rates_by_step_and_by_epoch(cut: Cut) -> None:
    """Every step is taken at the learning rate of the uninterrupted run."""
    check(SCHEDULED, cut)


@pytest.mark.parametrize("cut", SCHEDULED_CUTS, ids=str)
def test_learning_rates_while_accumulating(cut: Cut) -> None:
    """A window that is trained again does not move the schedule twice."""
    check(replace(SCHEDULED, samples=28, trainer={"max_epochs": 4, "accumulate_grad_batches": 2}), cut)


@pytest.mark.parametrize(
    "cut",
    [
        saved_after_step(3),
        saved_after_step(8),
        raised_in("training_step", (1, 3)),
        saved_in("on_train_batch_end", (1, 1)),
    ],
    ids=str,
)
def test_learning_rate_that_waits_for_a_metric(cut: Cut) -> None:
    """ReduceLROnPlateau moves at an epoch's end, which comes after these checkpoints."""
    check(Scenario(module=Plateau, trainer={"max_epochs": 4, "limit_val_batches": 1.0}), cut)


@pytest.mark.parametrize(
    "cut",
    [
        saved_after_step(6),
        saved_at_epoch_end(0),
        saved_at_validation((1, 1)),
        raised_in("on_train_batch_end", (0, 5)),
        raised_in("validation_step", (0, 5)),
        raised_in("on_train_epoch_end", (0, 5)),
    ],
    ids=str,
)
def test_learning_rate_that_waits_for_a_metric_at_an_epochs_end(cut: Cut) -> None:
    """Behind an epoch's last batch, and until its end is over, the checkpoint lacks the scheduler's step.

    Lightning takes that step behind all hooks in which checkpoints are saved (`loops/fit_loop.py`, on_advance_end), and
    saves no metrics from which it could be taken later. The samples stay exact; the learning rate may not be, which
    has to be said.
    """
    scenario = Scenario(module=Plateau, trainer={"max_epochs": 4, "limit_val_batches": 1.0})
    whole = uninterrupted(scenario)
    with pytest.warns(ResumptionWarning, match="ReduceLROnPlateau"):
        run = resumed(scenario, cut)
    assert ([], []) == repeated_and_lost(whole, run)
    assert [step.batches for step in whole.steps] == [step.batches for step in run.steps]


@also_with_workers
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 16}], ids=str)
@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(3),),
        (saved_after_step(6),),
        (saved_at_epoch_end(0),),
        (raised_in("training_step", (1, 2)), raised_in("training_step", (1, 4))),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_asking_for_estimated_stepping_batches_moves_nothing(
    cuts: tuple[Cut, ...], limit: dict[str, int], num_workers: int
) -> None:
    """To tell it, Lightning builds the train loaders before it has restored where the training stands."""
    check(Scenario(module=Budgeted, num_workers=num_workers, trainer=limit), *cuts)


@pytest.mark.parametrize(
    "cut",
    [
        saved_after_step(2),
        saved_after_step(3),
        saved_after_step(5),
        saved_at_epoch_end(0),
        saved_at_epoch_end(1),
        raised_in("training_step", (1, 1)),
        raised_in("on_train_batch_start", (0, 3)),
        raised_in("on_train_batch_end", (1, 2)),
    ],
    ids=str,
)
def test_on_train_batch_start_ends_the_epoch(cut: Cut) -> None:
    """Returning -1 skips the rest of an epoch, in a resumed run as in any other; the next epoch begins at its start."""
    check(Scenario(module=EndsEpochsEarly), cut)


@also_with_workers
@pytest.mark.parametrize(("limit_train_batches", "batches"), [(1, 1), (4, 4), (0.5, 3), (0.9, 5)])
def test_the_end_of_a_limited_epoch_is_an_epochs_end(
    limit_train_batches: float, batches: int, num_workers: int
) -> None:
    """`limit_train_batches`, a number or a share: the end of the limited epoch is an epoch's end like others."""
    scenario = Scenario(num_workers=num_workers, trainer={"limit_train_batches": limit_train_batches})
    assert [batches] * 3 == [uninterrupted(scenario).batches(epoch) for epoch in range(3)]
    for cut in (saved_after_step(1), saved_after_step(batches), raised_in("training_step", (1, batches - 1))):
        check(scenario, cut)


def test_a_limited_epoch_is_a_prefix_of_the_whole() -> None:
    """A limit leaves out the end of each epoch's order and moves no epoch's beginning."""
    whole, limited = uninterrupted(Scenario()), uninterrupted(Scenario(trainer={"limit_train_batches": 4}))
    assert {epoch: whole.ids(epoch)[:16] for epoch in range(3)} == {epoch: limited.ids(epoch) for epoch in range(3)}


@pytest.mark.parametrize(
    "cut", [saved_after_step(3), saved_at_epoch_end(0), raised_in("training_step", (1, 1))], ids=str
)
def test_sanity_checks_move_nothing(cut: Cut) -> None:
    """The validation batches that Lightning tries at first move nothing."""
    check(Scenario(trainer={"max_epochs": 3, "limit_val_batches": 1.0, "num_sanity_val_steps": 2}), cut)


@pytest.mark.parametrize("every", [1, 2])
@also_with_workers
@pytest.mark.parametrize(
    "cut",
    [saved_after_step(3), saved_after_step(6), saved_after_step(9), saved_at_epoch_end(0), saved_at_epoch_end(1)],
    ids=str,
)
def test_reloaded_loaders_start_where_the_training_stands(every: int, num_workers: int, cut: Cut) -> None:
    """`reload_dataloaders_every_n_epochs` asks for new loaders, each of which stands where the training stands."""
    check(Scenario(num_workers=num_workers, trainer={"max_epochs": 4, "reload_dataloaders_every_n_epochs": every}), cut)


EVERY_OTHER_EPOCH = {"check_val_every_n_epoch": 2}
EVERY_FOUR_BATCHES = {"check_val_every_n_epoch": None, "val_check_interval": 4}


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        (EVERY_OTHER_EPOCH, saved_at_validation((2, 1))),
        (EVERY_OTHER_EPOCH, raised_in("validation_step", (1, 5))),
        (EVERY_FOUR_BATCHES, saved_at_validation((1, 4))),
        (EVERY_FOUR_BATCHES, raised_in("validation_step", (1, 1))),
        ({**EVERY_FOUR_BATCHES, "accumulate_grad_batches": 3}, saved_at_validation((1, 4))),
        ({**EVERY_FOUR_BATCHES, "accumulate_grad_batches": 3}, raised_in("validation_step", (1, 1))),
    ],
    ids=str,
)
def test_validations_that_do_not_go_by_epochs(options: dict[str, int], cut: Cut) -> None:
    """Validation every other epoch, or every four batches across the epochs' ends."""
    check(Scenario(trainer={"max_epochs": 4, "limit_val_batches": 1.0, **options}), cut)


@pytest.mark.parametrize(
    "scenario",
    [
        accumulating(2),
        Scenario(module=TwoOptimizers),
        Scenario(module=Budgeted),
        Scenario(module=EndsEpochsEarly),
        Scenario(trainer={"limit_train_batches": 4}),
        Scenario(trainer={"reload_dataloaders_every_n_epochs": 1}),
        Scenario(trainer={"limit_val_batches": 1.0, "val_check_interval": 2, "num_sanity_val_steps": 2}),
    ],
    ids=["accumulating", "manual", "estimated", "ended early", "limited", "reloaded", "validated"],
)
def test_steps_with_workers_are_cut_exactly(scenario: Scenario) -> None:
    """Each of these with two workers reading ahead, through an exception, an epoch's end and a step."""
    scenario = replace(scenario, num_workers=2)
    check(scenario, raised_in("training_step", (0, 2)), saved_at_epoch_end(0), raised_in("on_train_batch_end", (1, 2)))


def test_a_finished_run_has_nothing_left_to_train() -> None:
    """The checkpoint of a run's end, resumed under the same limits, trains nothing and changes no count."""
    scenario = Scenario(trainer={"max_epochs": 2})
    at_the_end = stopped((1, 5))
    assert uninterrupted(scenario) == resumed(scenario, at_the_end)


@also_with_workers
@pytest.mark.parametrize(
    "end", [{"max_epochs": 1}, {"max_epochs": -1, "max_steps": 6}, {"max_epochs": -1, "max_steps": 8}]
)
def test_a_run_that_goes_on_under_later_limits(end: dict[str, int], num_workers: int) -> None:
    """A run that ended by its limits, at an epoch's end or not, goes on under later ones as if they had always held."""
    whole = Scenario(num_workers=num_workers, trainer={"max_epochs": 3})
    ended = replace(whole, trainer=end)
    last = (1, 1) if end.get("max_steps") == 8 else (0, 5)
    assert uninterrupted(whole) == resumed(ended, stopped(last), then=whole)
