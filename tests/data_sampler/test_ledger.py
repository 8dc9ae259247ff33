"""The ledger of a run whose data sampler counts, against the steps that the run really took."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch.utils.data import DataLoader

from resumable import Ledger, MismatchError, ResumptionState, StateError, StepSchedule, resumable, resumption_of
from tests.support import nemo_shape
from tests.support.cuts import Cut, checkpoint_in, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import numbers
from tests.support.recording import flat

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.sampler_loop import Loop, Steps, decorated, held
from tests.support.sampler_modules import MicroBatches, TwoOptimizers
from tests.support.sampler_runs import Scenario, train

WHOLE = Scenario(trainer={"max_epochs": 3})
MICRO = replace(WHOLE, micro_batch_size=2, module=MicroBatches)
BATCH = replace(WHOLE, kind="batch", micro_batch_size=2)
RAMP = replace(MICRO, samples=160, rampup=(2, 2, 40))
SCENARIOS: dict[str, Scenario] = {
    "single": WHOLE,
    "cyclic": replace(WHOLE, kind="cyclic"),
    "batch": BATCH,
    "micro": MICRO,
    "global batches that are drawn": replace(MICRO, kind="batch", micro_batch_size=8),
    "a rest that is dropped": replace(WHOLE, samples=70),
    "micro batches with a rest": replace(MICRO, samples=70),
    "a limit": replace(WHOLE, trainer={"max_epochs": 3, "limit_train_batches": 5}),
    "a limit of micro batches": replace(MICRO, trainer={"max_epochs": 3, "limit_train_batches": 22}),
    "accumulation": replace(WHOLE, samples=56, trainer={"max_epochs": 3, "accumulate_grad_batches": 2}),
    "accumulation of global batches": replace(
        BATCH, samples=60, trainer={"max_epochs": 3, "accumulate_grad_batches": 2}
    ),
    "ramp": RAMP,
    "ramp over epochs": replace(RAMP, samples=54, rampup=(2, 2, 120)),
    "ramp in one leap": replace(RAMP, rampup=(2, 6, 25)),
}
CUTS: dict[str, tuple[Cut, ...]] = {
    "none": (),
    "one": (saved_after_step(3),),
    "two": (saved_after_step(2), saved_after_step(7)),
    "epoch's end": (saved_at_epoch_end(0), raised_in("training_step", (1, 2))),
}


def last_session(scenario: Scenario, *cuts: Cut, then: Scenario | None = None) -> Any:
    """The trainer of the last session; those after the first go on as *then*, if given."""
    checkpoint, now = None, scenario
    with tempfile.TemporaryDirectory() as folder:
        for number, cut in enumerate(cuts):
            cut.carry_out(partial(train, now, checkpoint, session=number + 1), Path(folder, str(number)))
            checkpoint, now = checkpoint_in(Path(folder, str(number))), then or scenario
        return train(now, checkpoint, session=len(cuts) + 1)


def run(scenario: Scenario, *cuts: Cut, then: Scenario | None = None) -> tuple[Any, list[int]]:
    """The state of the last session's datamodule, and the consumed samples after each step that the run has taken."""
    trainer = last_session(scenario, *cuts, then=then)
    steps = trainer.lightning_module.history.steps
    return resumption_of(trainer.datamodule), ends(sum(len(flat(ids)) for _, ids in step.batches) for step in steps)


def ends(sizes: Any) -> list[int]:
    """0, and the consumed samples after each step of these sizes."""
    return list(accumulate(sizes, initial=0))


def check(ledger: Ledger, consumed: list[int], *, first: int = 0) -> None:
    """From step to sample and back, at every step and between two; *first* is the number of the first step."""
    assert consumed == [ledger.consumed_samples_at(first + step) for step in range(len(consumed))]
    for step, (begin, end) in enumerate(pairwise(consumed), first):
        assert (step, step, step + 1) == tuple(map(ledger.global_step_at, (begin, end - 1, end)))


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=[name.replace(" ", "_") for name in SCENARIOS])
def test_steps_and_samples_are_those_of_the_run(scenario: Scenario, cuts: tuple[Cut, ...]) -> None:
    """Through ramps and the ends of epochs. A run of one configuration has one stretch, however often it is resumed."""
    state, consumed = run(scenario, *cuts)
    assert (consumed[-1], 1) == (state.consumed_samples, len(state.state_dict()["ledger"]))
    check(state.ledger, consumed)


@pytest.mark.parametrize("step", [3, 5, 11])
@pytest.mark.parametrize("samples", [64, 70])
@pytest.mark.parametrize(
    ("before", "size", "micro"),
    [(WHOLE, 16, 16), (WHOLE, 4, 4), (BATCH, 16, 2), (BATCH, 12, 3), (BATCH, 8, 4), (MICRO, 16, 2), (MICRO, 12, 4)],
    ids=lambda value: value if isinstance(value, int) else f"{value.kind}_{value.micro_batch_size}",
)
def test_another_size_begins_another_stretch(before: Scenario, size: int, micro: int, samples: int, step: int) -> None:
    """Also where the saved position is within a batch of the new size: both parts are as they were trained."""
    before = replace(before, samples=samples)
    then = replace(before, global_batch_size=size, micro_batch_size=micro)
    state, consumed = run(before, saved_after_step(step), then=then)
    assert "regrouped" == state.verdict.outcome
    assert [0, step] == [stretch.step for stretch in state.ledger]
    check(state.ledger, consumed)


def test_two_resumes_in_other_sizes_are_three_stretches() -> None:
    """Each session adds its own; back in the first configuration the verdict is "regrouped" as well."""
    other = replace(MICRO, samples=256, global_batch_size=16, trainer={"max_epochs": 1})
    first = replace(other, global_batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        for number, (now, step) in enumerate(((first, 3), (other, 7))):
            place = Path(folder, str(number))
            saved_after_step(step).carry_out(partial(train, now, checkpoint, session=number + 1), place)
            checkpoint = checkpoint_in(place)
        trainer: Any = train(first, checkpoint, session=3)
    state = resumption_of(trainer.datamodule)
    sizes = [sum(len(flat(ids)) for _, ids in step.batches) for step in trainer.lightning_module.history.steps]
    assert ([8, 16, 8], [0, 3, 7], "regrouped") == (
        [sizes[0], sizes[4], sizes[-1]],
        [stretch.step for stretch in state.ledger],
        state.verdict.outcome,
    )
    check(state.ledger, ends(sizes))


def test_two_optimizers_are_one_step_of_the_ledger() -> None:
    """Their trainer counts two for each batch."""
    state, consumed = run(replace(WHOLE, module=TwoOptimizers), saved_after_step(6))
    assert state.state_dict()["global_step"] == 2 * state.ledger.global_step_at(state.consumed_samples)
    check(state.ledger, sorted(set(range(0, consumed[-1] // 2 + 1, 8))))


@pytest.mark.parametrize("scenario", [WHOLE, MICRO], ids=["whole", "micro"])
def test_a_state_of_the_mixins_begins_a_ledger_at_its_step(scenario: Scenario) -> None:
    """It holds no ledger, but the trainer's step is known where the decorated class takes over."""
    state, consumed = run(replace(scenario, data="mixin", rebases={"train": 1}), saved_after_step(3), then=scenario)
    assert [(3, 24)] == [(stretch.step, stretch.sample) for stretch in state.ledger]
    check(state.ledger, consumed[3:], first=3)


def test_the_trainers_counters_stay_those_of_the_saved_batches() -> None:
    """Cut within an accumulation window and gone on with in smaller batches: those of the window count once."""
    first = replace(WHOLE, samples=48, trainer={"max_epochs": 2, "accumulate_grad_batches": 2})
    then = replace(first, micro_batch_size=4, global_batch_size=4)
    trainer = last_session(first, raised_in("training_step", (0, 3)), then=then)
    trained = sum(len(step.batches) for step in trainer.lightning_module.history.steps)
    assert (2 + 8 + 12, trained) == (trained, trainer.fit_loop.epoch_loop.batch_progress.total.processed)


# Loops without Lightning.

by_form = pytest.mark.parametrize("state_of", [held, decorated])


@by_form
@pytest.mark.parametrize("rampup", [None, (2, 2, 40), (2, 6, 25)], ids=str)
@pytest.mark.parametrize("is_connected", [False, True], ids=["alone", "connected"])
def test_a_loop_over_three_sessions(state_of: Callable[[Loop], Any], rampup: Any, is_connected: bool) -> None:
    """Empty before the first step; loading and saving adds nothing; the ledger is one object while nothing changes."""
    loop = Loop(rampup=rampup, is_connected=is_connected)
    loop.start()
    state, consumed = state_of(loop), [0]
    assert [] == state.state_dict()["ledger"]
    for _ in range(3):
        for _ in range(9):
            loop.train(1)
            consumed.append(loop.trained)
            assert 1 == len(state.state_dict()["ledger"])
        ledger = ledger_of(state)
        assert ledger is ledger_of(state)
        check(ledger, consumed)
        saved, trained, step = state.state_dict(), loop.trained, loop.trainer.global_step
        loop = Loop(rampup=rampup, is_connected=is_connected)
        loop.start()
        loop.trainer.global_step, loop.trained = step, trained
        state = state_of(loop)
        state.load_state_dict(saved)
        assert saved == state.state_dict()


def ledger_of(state: Any) -> Ledger:
    """Of a state, or of a decorated datamodule."""
    held_by: ResumptionState = state if isinstance(state, ResumptionState) else resumption_of(state)
    return held_by.ledger


@pytest.mark.parametrize(
    ("options", "ranks", "wanted"),
    [
        ({}, 1, []),
        ({"global_batch_size": 16}, 1, [("Another schedule of batch sizes.", "ConstantBatchSize(batch_size=16)")]),
        ({"micro_batch_size": 4}, 1, [("Another micro batch size.", "4")]),
        ({}, 2, [("Another number of data-parallel ranks.", "2")]),
        ({"rampup": (2, 2, 40)}, 1, [("Another schedule of batch sizes.", "LinearRampup")]),
    ],
    ids=["the_same", "global_batch", "micro_batch", "ranks", "ramp"],
)
def test_a_loop_in_another_configuration_is_regrouped(options: Any, ranks: int, wanted: Any) -> None:
    """The ranks are those of the calculator; each difference is told, with the new value."""
    first = Loop()
    first.start()
    state = held(first)
    first.train(3)
    saved, then = state.state_dict(), Loop(**options)
    nemo_shape.calculators().unset_num_microbatches_calculator()
    nemo_shape.calculators().init_num_microbatches_calculator(
        rank=0,
        rampup_batch_size=then.sampler.rampup_batch_size,
        global_batch_size=then.sampler.global_batch_size,
        micro_batch_size=then.sampler.micro_batch_size,
        data_parallel_size=ranks,
    )
    again = held(then)
    again.load_state_dict(saved)
    found = again.verdict.differences
    assert ("regrouped" if wanted else "exact", len(wanted)) == (again.verdict.outcome, len(found))
    assert all(new in repr(each.current) for each, (_, new) in zip(found, wanted, strict=True))
    assert [what for what, _ in wanted] == [each.what for each in found]


@pytest.mark.parametrize("global_step", [None, 5])
def test_an_old_state_begins_a_ledger_where_it_was_saved(global_step: int | None) -> None:
    """What was trained before is unknown, and is never answered with 0; a saved step count is gone on with."""
    old: dict[str, Any] = {"consumed_samples": 40}
    if global_step is not None:
        old = {**ResumptionState().state_dict(), **old, "epoch": None, "offset": None, "global_step": global_step}
    loop, first = Loop(), global_step or 0
    loop.start()
    state = held(loop)
    state.load_state_dict(old)
    loop.trainer.global_step = first
    assert [] == state.state_dict()["ledger"]
    with pytest.raises(StateError, match="does not know this part of the run"):
        state.ledger.global_step_at(40)
    loop.train(3)
    check(state.ledger, [40, 48, 56, 64], first=first)
    with pytest.raises(StateError, match="sample 40"):
        state.ledger.global_step_at(39)


class Counts:
    """A sampler that knows no sizes but its own count."""

    def __init__(self, *sizes: int) -> None:
        self.init_global_step = self.init_consumed_samples = self.prev_consumed_samples = self.if_first_step = 0
        self.sizes = sizes

    def compute_consumed_samples(self, steps_since_resume: int, /) -> int:
        return self.init_consumed_samples + sum(self.sizes[:steps_since_resume])


def test_a_sampler_without_a_size_is_asked_for_its_count() -> None:
    """One step's size is that of each."""
    trainer = Steps()
    state = ResumptionState(Counts(6, 6, 6, 6), trainer)
    trainer.global_step = 4
    assert 24 == state.consumed_samples
    check(state.ledger, [0, 6, 12, 18, 24])


class CountsOnceConnected(Counts):
    """One whose steps are as large as its trainer says, which connects later."""

    trainer: Any

    def compute_consumed_samples(self, steps_since_resume: int, /) -> int:
        return self.init_consumed_samples + steps_since_resume * int(self.trainer.batch_size)


def test_a_sampler_that_cannot_count_yet_loads_its_state() -> None:
    """It loads without this package, so it loads with it; its ledger begins once it can count."""
    for saved in ({"consumed_samples": 8}, ResumptionState(Counts(4, 4), Steps(1)).state_dict()):
        sampler, trainer = CountsOnceConnected(), Steps(saved.get("global_step", 0))
        state = ResumptionState(sampler, trainer)
        state.load_state_dict(saved)
        sampler.trainer = SimpleNamespace(batch_size=6)
        state.update_init_global_step()
        begun = trainer.global_step
        trainer.global_step += 2
        assert saved["consumed_samples"] + 12 == state.consumed_samples
        assert 6 == state.ledger.consumed_samples_at(begun + 2) - state.ledger.consumed_samples_at(begun + 1)


def test_sizes_that_only_the_sampler_knows_are_not_made_up() -> None:
    """Where its first steps differ and nobody gives a schedule, the ledger names the sampler and answers nothing."""
    trainer = Steps()
    state = ResumptionState(Counts(4, 6, 8, 8), trainer)
    trainer.global_step = 4
    assert [[0, 0, 0, 0], "Counts"] == [state.state_dict()["ledger"][0][:4], state.state_dict()["ledger"][0][-1]]
    with pytest.raises(StateError, match="only the name of a user-defined schedule"):
        state.ledger.consumed_samples_at(2)
    state = ResumptionState(Counts(4, 6, 8, 8), trainer, schedule=StepSchedule(((0, 4), (4, 6), (10, 8))))
    check(state.ledger, [0, 4, 10, 18, 26])


class OfTwoRanks(nemo_shape.MegatronDataSampler):
    """Its loaders hold the part of one of so many ranks."""

    ranks = 1

    def transform_dataloader(self, dataloader: Any, consumed_samples: int = 0) -> DataLoader[Any]:
        loader: Any = super().transform_dataloader(dataloader, consumed_samples)
        loader.batch_sampler.micro_batch_times_data_parallel_size = self.ranks * self.micro_batch_size
        return cast("DataLoader[Any]", loader)


def datamodule(kind: Any, ranks: int, micro_batch_size: int, global_batch_size: int, samples: int = 64) -> Any:
    """A decorated datamodule in a loop, whose loader shows its ranks."""
    sampler = OfTwoRanks(
        1, micro_batch_size=micro_batch_size, global_batch_size=global_batch_size, dataloader_type=kind
    )
    sampler.ranks = ranks

    @resumable(sampler="data_sampler")
    class Data:
        def __init__(self) -> None:
            self.trainer = Steps()
            self.data_sampler = sampler

        def train_dataloader(self) -> Any:
            return self.data_sampler.transform_dataloader(DataLoader(cast("Any", numbers(samples))))

    return Data()


@pytest.mark.parametrize("kind", ["single", "batch"])
@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        ((2, 2, 8), []),
        ((2, 2, 16), ["Another schedule of batch sizes."]),
        ((2, 4, 8), ["Another micro batch size."]),
        ((4, 2, 8), ["Another number of data-parallel ranks."]),
        ((1, 4, 8), ["Another micro batch size.", "Another number of data-parallel ranks."]),
    ],
    ids=["the_same", "global_batch", "micro_batch", "ranks", "both"],
)
def test_a_loader_shows_what_groups_the_samples_anew(kind: Any, now: tuple[int, int, int], wanted: list[str]) -> None:
    """Another data set is still refused, and the same one in another grouping is not called exact."""
    data = datamodule(kind, 2, 2, 8)
    data.train_dataloader()
    data.trainer.global_step = 3
    saved = data.state_dict()
    assert [2, 2] == saved["ledger"][0][5:7]
    again = datamodule(kind, *now)
    again.load_state_dict(saved)
    again.train_dataloader()
    verdict = resumption_of(again).verdict
    assert ("regrouped" if wanted else "exact", wanted) == (
        verdict.outcome,
        [each.what for each in verdict.differences],
    )
    other = datamodule(kind, *now, samples=80)
    other.load_state_dict({**saved, "order": ["sequential", 64, None]})
    with pytest.raises(MismatchError, match="another length"):
        other.train_dataloader()
