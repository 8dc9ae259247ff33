"""Schedules under Lightning: each optimizer step accumulates exactly the scheduled global batch, over all resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from resumable import (
    ConfigurationError,
    DecorationError,
    LinearRampup,
    ResumableLoader,
    StepSchedule,
    resumable,
    resumption_of,
)
from resumable.adapters.lightning.schedule_progress import Window
from tests.support.cuts import (
    Cut,
    also_with_workers,
    interrupted,
    raised_in,
    saved_after_step,
    saved_at_epoch_end,
    saved_at_validation,
    saved_in,
    sigkill,
    stopped,
)
from tests.support.lightning_runs import (
    PlainNumbers,
    Run,
    Scenario,
    changed,
    check,
    data_of,
    numbers,
    resumed,
    train,
    trainer_of,
    uninterrupted,
)
from tests.support.recording import Recording, StepPlan, flat
from tests.support.reference import Setup, run_of

EPOCHS = 3
SIZES = ((0, 4), (20, 8), (40, 12))
STEPS = StepSchedule(SIZES)
RAMP = Scenario(data=data_of(STEPS), module=StepPlan)
SCENARIOS: dict[str, Scenario] = {
    "shuffled": RAMP,
    "by steps": replace(RAMP, trainer={"max_epochs": -1, "max_steps": 12}),
    "dropped": replace(RAMP, drop_last=True, samples=31),
    "limited": replace(RAMP, samples=31, trainer={"max_epochs": 3, "limit_train_batches": 6}),
    "a share": replace(RAMP, samples=31, trainer={"max_epochs": 3, "limit_train_batches": 0.75}),
    "validated": replace(RAMP, trainer={"max_epochs": 3, "limit_val_batches": 2, "val_check_interval": 2}),
    "a small micro batch": replace(RAMP, batch_size=2),
}


def ids_by_step(run: Run) -> list[tuple[int, list[list[int]]]]:
    """The epoch of each optimizer step, and the ids of each of its batches."""
    return [(step.epoch, [list(flat(ids)) for _, ids in step.batches]) for step in run.steps]


def walked(
    scenario: Scenario, orders: list[list[int]], limit: int | None = None, sizes: tuple[tuple[int, int], ...] = SIZES
) -> list[tuple[int, list[list[int]]]]:
    """The same by the rule, sample by sample."""
    setup = Setup(scenario.samples, scenario.batch_size, 1, sizes, scenario.drop_last)
    if limit is not None:
        setup = replace(setup, length=limit * scenario.batch_size)
    steps: list[tuple[int, list[list[int]]]] = []
    for step in run_of(setup, (0, 0, 0)):
        epoch = step.begins[1]
        if epoch == EPOCHS:
            return steps
        steps.append((epoch, [[orders[at][place] for at, place in samples] for (samples,) in step.rounds]))
    raise AssertionError("the walk has no end")


def orders_of(scenario: Scenario) -> list[list[int]]:
    """The whole order of each epoch, as a run without a schedule trains it."""
    plain = uninterrupted(Scenario(samples=scenario.samples, shuffle=scenario.shuffle))
    return [plain.ids(epoch) for epoch in range(EPOCHS)]


@pytest.mark.parametrize(
    ("name", "limit"), [("shuffled", None), ("dropped", None), ("limited", 6), ("a small micro batch", None)]
)
def test_each_step_takes_the_scheduled_global_batch(name: str, limit: int | None) -> None:
    """The ids of each micro batch of each step, and the number of steps, are those of the schedule."""
    scenario = SCENARIOS[name]
    run = uninterrupted(scenario)
    expected = walked(scenario, orders_of(scenario), limit)
    assert expected == ids_by_step(run)
    assert (len(expected), EPOCHS) == (run.global_step, run.current_epoch)
    assert {len(batches) for _, batches in expected} > {1}


def test_the_losses_of_a_step_weigh_alike() -> None:
    """A step's gradient is the mean of its micro batches', so that the weights are those of a loop by hand."""
    scenario = replace(RAMP, module=Recording)
    by_hand = Recording()
    optimizer = by_hand.configure_optimizers()
    for _, batches in walked(scenario, orders_of(scenario)):
        for ids in batches:
            torch.autograd.backward(by_hand.loss(torch.tensor(ids)) / len(batches))
        optimizer.step()
        optimizer.zero_grad()
    assert {"weight": by_hand.weight.tolist()} == uninterrupted(scenario).weights


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("batch", range(5))
@pytest.mark.parametrize("hook", ["on_train_batch_start", "training_step", "on_train_batch_end"])
def test_an_exception_at_each_place(name: str, hook: str, batch: int) -> None:
    """Inside a step, between two, and where the size changes: the resume begins with the step that was not complete."""
    check(SCENARIOS[name], raised_in(hook, (1, batch)))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("place", [(0, 0), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (2, 2)])
def test_saved_at_each_place(name: str, place: tuple[int, int]) -> None:
    """The same where the session goes on behind the checkpoint, an epoch's last batch included."""
    check(SCENARIOS[name], saved_in("on_train_batch_end", place))


CUTS = [
    saved_after_step(2),
    saved_after_step(6),
    saved_at_epoch_end(0),
    saved_at_epoch_end(1),
    interrupted("training_step", (1, 1)),
    stopped((1, 2)),
]


@also_with_workers
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_way_to_end(name: str, cut: Cut, num_workers: int) -> None:
    """Checkpoints of callbacks, epochs' ends, Ctrl-C and a trainer that is told to stop."""
    check(replace(SCENARIOS[name], num_workers=num_workers), cut)


@pytest.mark.parametrize("name", SCENARIOS)
def test_chains_across_the_boundaries(name: str) -> None:
    """The second resume is as exact as the first."""
    check(SCENARIOS[name], saved_after_step(2), raised_in("training_step", (1, 1)), saved_at_epoch_end(1))


def test_a_killed_run_keeps_its_schedule() -> None:
    """By SIGKILL, in a process of its own."""
    check(replace(RAMP, num_workers=2), sigkill((1, 3), every_n_steps=1))


def test_saved_in_a_validation() -> None:
    """Between two batches of a window a validation may run."""
    check(SCENARIOS["validated"], saved_at_validation((1, 3)))


@pytest.mark.parametrize(("old", "new"), [(4, 2), (2, 4), (4, 1)])
@pytest.mark.parametrize("behind", range(1, 9))
@pytest.mark.parametrize("drop_last", [False, True])
def test_another_micro_batch_keeps_the_steps(old: int, new: int, behind: int, drop_last: bool) -> None:
    """The steps stay the same samples, each in as many batches as it then takes."""
    before = replace(RAMP, batch_size=old, drop_last=drop_last, samples=31)
    after = replace(before, batch_size=new)
    run = resumed(before, saved_after_step(behind), then=after)
    steps = [(step.epoch, [number for _, ids in step.batches for number in flat(ids)]) for step in run.steps]
    uncut = [
        (step.epoch, [number for _, ids in step.batches for number in flat(ids)])
        for step in uninterrupted(before).steps
    ]
    assert uncut == steps
    assert ids_by_step(uninterrupted(after))[behind:] == ids_by_step(run)[behind:]
    assert EPOCHS == run.current_epoch


def test_the_ledger_and_the_verdict() -> None:
    """Steps and samples lead to each other through the schedule, and another one is told and gone on with."""
    first = data_of(STEPS)
    trainer = train(replace(RAMP, data=first))
    ledger = resumption_of(_data(trainer)).ledger
    steps = uninterrupted(RAMP).steps
    behind = [sum(len(flat(ids)) for step in steps[:n] for _, ids in step.batches) for n in range(len(steps) + 1)]
    assert behind == [ledger.consumed_samples_at(n) for n in range(len(behind))]
    assert list(range(len(behind))) == [ledger.global_step_at(samples) for samples in behind]
    assert 1 == len(ledger)


def _data(trainer: Any) -> Any:
    return trainer.datamodule


def test_another_schedule_takes_the_same_samples() -> None:
    """A run that changes its mind goes on with the same samples in the steps of the new schedule."""
    later = replace(RAMP, data=data_of(StepSchedule(((0, 8),))))
    run = changed([(RAMP, saved_after_step(3))], later)
    sizes = [sum(len(flat(ids)) for _, ids in step.batches) for step in run.steps]
    assert [4, 4, 4, 8, 2, 8, 8, 6, 8, 8, 6] == sizes
    assert orders_of(RAMP) == [run.ids(epoch) for epoch in range(EPOCHS)]


def test_a_loader_with_a_schedule_of_its_own() -> None:
    """A ResumableLoader brings its schedule along."""

    @resumable
    class Numbers(PlainNumbers):
        def train_dataloader(self) -> Any:
            return ResumableLoader[Any](numbers(22), 4, shuffle=True, schedule=STEPS)

    scenario = replace(RAMP, data=Numbers)
    assert uninterrupted(RAMP) == uninterrupted(scenario)
    check(scenario, raised_in("training_step", (1, 1)))


class ByHand(Recording):
    """Steps by hand when the loader says that a step's last batch is there."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._taken = 0

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        loader: Any = self.trainer.train_dataloader
        self.manual_backward(loss / loader.num_microbatches)
        self._taken += 1
        if self._taken == loader.num_microbatches:
            self._taken = 0
            optimizer: Any = self.optimizers()
            steps_before = self.trainer.global_step
            optimizer.step()
            optimizer.zero_grad()
            self.note_step(steps_before, 0.05)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Nothing is cleared behind a loss."""


@pytest.mark.parametrize("batch", range(4))
def test_a_module_that_steps_by_hand(batch: int) -> None:
    """It is told by `num_microbatches`, and resumed at the beginning of the step that was not complete."""
    scenario = replace(RAMP, module=ByHand)
    assert walked(scenario, orders_of(scenario)) == ids_by_step(uninterrupted(scenario))
    check(scenario, raised_in("on_train_batch_end", (1, batch)))


def test_the_trainer_is_left_as_it_was() -> None:
    """Another fit of the same trainer, with other data, accumulates as it was told to."""
    trainer = train(RAMP)
    assert (1, int) == (trainer.accumulate_grad_batches, type(trainer.accumulate_grad_batches))


class LengthWatch(L.Callback):
    """Notes what the loader says of the epoch that begins, and what it would yield."""

    def __init__(self) -> None:
        self.lengths: list[tuple[int, int]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        loader = trainer.train_dataloader
        self.lengths.append((len(loader), sum(1 for _ in loader)))


def test_a_loader_yields_what_it_says() -> None:
    """Where drop_last leaves out what fills no global batch, epochs have unlike lengths; workers load nothing in vain."""
    watching = LengthWatch()
    train(SCENARIOS["dropped"], None, watching)
    expected = [uninterrupted(SCENARIOS["dropped"]).batches(epoch) for epoch in range(EPOCHS)]
    assert [(batches, batches) for batches in expected] == watching.lengths
    assert len(set(expected)) > 1


@pytest.mark.parametrize("name", ["shuffled", "dropped"])
def test_a_trainer_that_counts_anew(name: str) -> None:
    """A state that is loaded by hand places the data; the trainer begins at its first step, in the rest of the epoch."""
    scenario = SCENARIOS[name]
    steps = uninterrupted(scenario).steps
    first = next(step.global_step for step in steps if step.epoch == 1) + 1
    behind = sum(len(flat(ids)) for step in steps[:first] for _, ids in step.batches)
    data = scenario.data(scenario)
    data.load_state_dict({"consumed_samples": behind})
    module = scenario.module()
    trainer_of(scenario, max_epochs=2).fit(module, data)
    trained = [ids for step in module.history.steps for _, ids in step.batches]
    assert [ids for step in steps[first:] for _, ids in step.batches] == trained


def test_sizes_are_rounded_down_on_request_alone() -> None:
    """Sizes that leave a part of a batch over are refused with those that would do, or rounded down on request."""
    ramp = LinearRampup(start=4, end=12, increment=2, rampup_samples=40)
    with pytest.raises(ConfigurationError, match=r"global batch size:     6\n(.*\n)*.*sizes that would do:   '4 or 8'"):
        train(replace(RAMP, data=data_of(ramp)))
    run = uninterrupted(replace(RAMP, data=data_of(ramp, rounds_down=True)))
    assert [4, 4, 4, 4, 4, 2, 8, 8, 6, 12, 10] == [sum(len(flat(ids)) for _, ids in step.batches) for step in run.steps]


class Streaming(IterableDataset[int]):
    """A stream."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


def loading(loaders: Callable[[Scenario], Any], **changes: Any) -> Scenario:
    """The scenario with other loaders."""
    return replace(RAMP, loaders=loaders, **changes)


REFUSED: dict[str, tuple[Scenario, str]] = {
    "accumulating": (replace(RAMP, trainer={"accumulate_grad_batches": 2}), r"accumulate_grad_batches:  2"),
    "a callback": (
        replace(RAMP, callbacks=lambda: [GradientAccumulationScheduler({0: 2})]),
        "GradientAccumulationScheduler",
    ),
    "several loaders": (loading(lambda s: [s.loader(), s.loader()]), r"loaders: \['DataLoader', 'DataLoader'\]"),
    "a stream": (
        loading(lambda s: DataLoader(Streaming(), s.batch_size), shuffle=False),
        "one loader over a map-style dataset",
    ),
    "another of the loader's": (
        loading(lambda s: ResumableLoader[Any](numbers(22), s.batch_size, schedule=StepSchedule(((0, 8),)))),
        "The schedule is given twice",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_schedule_can_group(what: str) -> None:
    """Nothing is left for Lightning to decide: what would group the batches otherwise is refused before the run."""
    scenario, words = REFUSED[what]
    with pytest.raises(DecorationError, match=words):
        trainer_of(scenario).fit(scenario.module(), scenario.data(scenario))


def test_windows_are_numbers() -> None:
    """The remainder counts from the window's beginning, everything else is as of the number."""
    window = Window(3, begins=4)
    assert [1, 2, 0] == [number % window for number in (5, 6, 7)]
    assert (0, 1) == (4 % window, 8 % window)
    assert (True, 3, "3", 2.0) == (window == 3, window + 0, str(int(window)), 6 / window)


GROWING = replace(RAMP, data=data_of(StepSchedule(((0, 12), (25, 4)))), samples=31, drop_last=True)
"""Its epochs grow: 31 samples have two steps of 12, then one and four of 4, then seven of 4."""


def test_an_epoch_that_is_longer_than_those_before() -> None:
    """It has all batches of its own steps, though Lightning has set its limits for the first and shortest one."""
    run = uninterrupted(GROWING)
    assert [order[:stop] for order, stop in zip(orders_of(GROWING), (24, 28, 28), strict=True)] == [
        run.ids(epoch) for epoch in range(EPOCHS)
    ]
    assert [(6, 6), (7, 7), (7, 7)] == [run.lengths[epoch] for epoch in range(EPOCHS)]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_share_of_epochs_of_unlike_lengths(share: float) -> None:
    """Of the rounds of an epoch, whatever its steps leave out: the shortest one has no limit of its own."""
    scenario = replace(GROWING, trainer={"max_epochs": 3, "limit_train_batches": share})
    assert walked(scenario, orders_of(scenario), int(7 * share), ((0, 12), (25, 4))) == ids_by_step(
        uninterrupted(scenario)
    )


@pytest.mark.parametrize("cut", [saved_after_step(1), saved_after_step(2), saved_at_epoch_end(0)], ids=str)
def test_resumed_in_an_epoch_that_is_shorter_than_the_next(cut: Cut) -> None:
    """The limits that Lightning sets on a resume are those of the present epoch alone."""
    check(GROWING, cut)
