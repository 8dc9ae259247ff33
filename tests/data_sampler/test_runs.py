"""A decorated Megatron-style datamodule goes on with the exact next sample, cut anywhere, and every count is the truth.

The batch sizes are constant here, so that cut and uncut runs are equal to the bit; ramps are in `test_sampler_ramps.py`.
64 samples by global batches of 8 are eight steps an epoch.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.support import nemo_shape
from tests.support.cuts import (
    Cut,
    raised_after,
    raised_in,
    saved_after_step,
    saved_at_epoch_end,
    saved_at_validation,
    saved_in,
    stopped,
)

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.recording import Recording
from tests.support.sampler_modules import MicroBatches, TwoOptimizers, WholeBatches
from tests.support.sampler_runs import (
    AsksForLoaders,
    CountsEachStep,
    Scenario,
    check,
    check_counts,
    data_class,
    ids,
    resumed,
    train,
    uninterrupted,
)

EPOCHS = {"max_epochs": 3}
WHOLE = Scenario(trainer=EPOCHS)
MICRO = replace(WHOLE, micro_batch_size=2, module=MicroBatches)
KINDS = {
    "single": WHOLE,
    "cyclic": replace(WHOLE, kind="cyclic"),
    "batch": replace(WHOLE, kind="batch", micro_batch_size=2),
    "micro": MICRO,
    "micro_cyclic": replace(MICRO, kind="cyclic"),
}
CUTS = [
    saved_after_step(3),
    saved_after_step(8),
    saved_after_step(9),
    saved_at_epoch_end(0),
    saved_at_epoch_end(1),
    raised_in("training_step", (0, 5)),
    raised_in("training_step", (1, 0)),
    raised_in("training_step", (1, 3)),
    raised_in("on_train_batch_start", (2, 4)),
    raised_in("on_train_batch_end", (0, 7)),
    raised_in("on_train_batch_end", (1, 2)),
]
CHAINS: dict[str, tuple[Cut, ...]] = {
    "one epoch": tuple(map(saved_after_step, (2, 3, 6))),
    "each epoch": tuple(map(saved_after_step, (5, 12, 21))),
    "boundaries": (saved_at_epoch_end(0), saved_at_epoch_end(1)),
    "last batches": (saved_after_step(8), saved_after_step(16)),
    "within and last": (saved_after_step(3), saved_after_step(8), saved_at_epoch_end(1)),
    "twice at one place": (saved_after_step(8), raised_in("training_step", (1, 0)), raised_in("training_step", (1, 1))),
    "exceptions": (raised_in("training_step", (0, 3)), raised_in("training_step", (0, 6))),
}
VALIDATED = {**EPOCHS, "limit_val_batches": 2}

also = partial(pytest.param, marks=pytest.mark.slow)
by_kind = pytest.mark.parametrize(
    "scenario",
    [(also if name == "micro_cyclic" else pytest.param)(scenario, id=name) for name, scenario in KINDS.items()],
)


@by_kind
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_cut_anywhere_leaves_no_trace(scenario: Scenario, cut: Cut) -> None:
    """Ids, batches, weights, lengths and counters are those of the run without a cut, in every epoch."""
    check(scenario, cut)


@by_kind
@pytest.mark.parametrize("cuts", CHAINS.values(), ids=[name.replace(" ", "_") for name in CHAINS])
def test_any_chain_of_cuts_leaves_no_trace(scenario: Scenario, cuts: tuple[Cut, ...]) -> None:
    """A second and third resume are as exact as the first."""
    check(scenario, *cuts)


@pytest.mark.slow
@by_kind
@pytest.mark.parametrize("step", range(1, 24))
def test_every_step_can_be_the_last(scenario: Scenario, step: int) -> None:
    """Saved behind any step, and by an exception in any step."""
    check(scenario, saved_after_step(step))
    check(scenario, raised_after(step))


@pytest.mark.parametrize("scenario", [WHOLE, KINDS["batch"], MICRO], ids=["single", "batch", "micro"])
def test_each_epoch_trains_all_samples(scenario: Scenario) -> None:
    """Also behind a resume; Megatron's own samplers skip in later epochs what was consumed before the resume."""
    assert [list(range(64))] * 3 == [uninterrupted(scenario).ids(epoch) for epoch in range(3)]


def test_cyclic_epochs_differ_and_are_whole() -> None:
    """Megatron's "cyclic" shuffles each epoch anew."""
    run = uninterrupted(KINDS["cyclic"])
    orders = [run.ids(epoch) for epoch in range(3)]
    assert [list(range(64))] * 3 == list(map(sorted, orders))
    assert 3 == len(set(map(tuple, orders)))


@by_kind
def test_where_nothing_is_resumed_nothing_is_changed(scenario: Scenario) -> None:
    """One session of the decorated class is that of BioNeMo's mixin in all epochs, weights and all."""
    mixin = uninterrupted(replace(scenario, data="mixin", rebases={"train": 1}))
    decorated = uninterrupted(scenario)
    assert (mixin.steps, mixin.weights) == (decorated.steps, decorated.weights)


@pytest.mark.parametrize("data", ["explicit", "bare", "both"])
@pytest.mark.parametrize(
    "transforms", [{"strategy"}, {"datamodule"}, {"strategy", "datamodule"}], ids=lambda who: "_".join(sorted(who))
)
@pytest.mark.parametrize("restores_first", [False, True])
def test_any_form_of_the_datamodule_will_do(data: str, transforms: set[str], restores_first: bool) -> None:
    """Decorated with or without options, with the mixin as its base or not, and whoever transforms its loader.

    Restored before the strategy is set up, there is no calculator yet to be told, though the mixin tells it.
    """
    scenario = replace(WHOLE, data=data, transforms=frozenset(transforms), restores_first=restores_first)
    for cuts in ((saved_after_step(3),), (saved_after_step(8), raised_in("training_step", (1, 2)))):
        check(scenario, *cuts)


@pytest.mark.parametrize("data", [also("explicit"), "both"])
@pytest.mark.parametrize(
    "rebases",
    [{}, {"train": 1, "validation": 1}, {"train": 2, "validation": 2}, {"validation": 1}],
    ids=["never", "always", "twice", "validation"],
)
@pytest.mark.parametrize("checks", [{"val_check_interval": 3}, {"check_val_every_n_epoch": 2}], ids=["often", "seldom"])
def test_rebasing_at_any_time_changes_nothing(data: str, rebases: dict[str, int], checks: dict[str, Any]) -> None:
    """Old loader methods that call `update_init_global_step()` keep working, and those that never do work as well."""
    scenario = replace(WHOLE, data=data, rebases=rebases, trainer={**VALIDATED, **checks})
    for cuts in ((saved_after_step(5),), (saved_after_step(10), saved_after_step(19))):
        check(scenario, *cuts)


OPTIONS: dict[str, Scenario] = {
    "validation within epochs": replace(WHOLE, trainer={**VALIDATED, "val_check_interval": 3}),
    "validation each epoch": replace(WHOLE, trainer=VALIDATED),
    "validation each second epoch": replace(WHOLE, trainer={**VALIDATED, "check_val_every_n_epoch": 2}),
    "loaders asked for": replace(WHOLE, callbacks=lambda: [AsksForLoaders("val")], rebases={"validation": 1}),
    "train loaders asked for": replace(WHOLE, callbacks=lambda: [AsksForLoaders("train")], rebases={"train": 1}),
    "loaders reloaded": replace(WHOLE, trainer={**VALIDATED, "reload_dataloaders_every_n_epochs": 1}),
    "batches limited": replace(WHOLE, trainer={**EPOCHS, "limit_train_batches": 5}),
    "half of the batches": replace(WHOLE, trainer={**EPOCHS, "limit_train_batches": 0.5}),
    "a rest that is dropped": replace(WHOLE, samples=70),
    "micro batches with a rest": replace(MICRO, samples=70),
    "counted at each step": replace(WHOLE, callbacks=lambda: [CountsEachStep()]),
    "max_steps": replace(WHOLE, trainer={"max_steps": 21, "max_epochs": -1}),
    "micro batches validated": replace(MICRO, trainer={**VALIDATED, "check_val_every_n_epoch": 1}),
}


@pytest.mark.parametrize("scenario", OPTIONS.values(), ids=[name.replace(" ", "_") for name in OPTIONS])
@pytest.mark.parametrize(
    "cuts",
    [
        also((saved_after_step(3),)),
        (saved_at_epoch_end(0),),
        also((raised_in("training_step", (1, 2)),)),
        (saved_after_step(4), raised_in("training_step", (1, 3))),
        also((saved_after_step(5), saved_at_epoch_end(1))),
    ],
    ids=str,
)
def test_whatever_the_trainer_is_told(scenario: Scenario, cuts: tuple[Cut, ...]) -> None:
    """Validation at any time, loaders asked for or reloaded, epochs cut short: nothing moves the count."""
    check(scenario, *cuts)


@pytest.mark.parametrize("scenario", [WHOLE, MICRO], ids=["whole", "micro"])
@pytest.mark.parametrize("before", [(0, 4), (1, 1), (2, 7)])
def test_a_checkpoint_of_a_validation(scenario: Scenario, before: tuple[int, int]) -> None:
    """Saved when a validation has ended, in mid-epoch and behind an epoch."""
    scenario = replace(scenario, trainer={**VALIDATED, "val_check_interval": 3})
    check(scenario, saved_at_validation(before))


ACCUMULATED = replace(WHOLE, samples=48, trainer={**EPOCHS, "accumulate_grad_batches": 2})


@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(2),),
        (saved_after_step(3),),
        (saved_at_epoch_end(0),),
        (raised_in("training_step", (0, 2)),),
        (raised_in("training_step", (0, 3)),),
        (raised_in("training_step", (1, 1)), raised_in("training_step", (1, 3))),
        (saved_in("on_train_batch_end", (0, 2)),),
        (saved_after_step(2), saved_after_step(5), saved_after_step(7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [48, also(56)])
def test_a_cut_within_an_accumulation_window_goes_back_to_its_start(cuts: tuple[Cut, ...], samples: int) -> None:
    """Gradients are not saved, so that the window is trained anew; what it held counts once."""
    check(replace(ACCUMULATED, samples=samples), *cuts)


@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(6),),
        (saved_after_step(16),),
        (saved_at_epoch_end(0),),
        (raised_in("training_step", (0, 5)),),
        (saved_after_step(6), saved_after_step(22)),
    ],
    ids=str,
)
def test_two_optimizers_step_once_for_the_count(cuts: tuple[Cut, ...]) -> None:
    """`global_step` counts two for each batch."""
    check(replace(WHOLE, module=TwoOptimizers), *cuts)


@pytest.mark.parametrize("scenario", [WHOLE, KINDS["cyclic"]], ids=["single", "cyclic"])
@pytest.mark.parametrize("data", ["explicit", "both"])
@pytest.mark.parametrize("cut", [saved_after_step(3), saved_after_step(7), saved_after_step(8)], ids=str)
def test_a_state_of_the_mixins_goes_on_decorated(scenario: Scenario, data: str, cut: Cut) -> None:
    """An old checkpoint is taken over: the class may be decorated, or lose its base, in mid-run."""
    old = replace(scenario, data="mixin", rebases={"train": 1})
    saves: list[tuple[int, int]] = []
    expected = uninterrupted(replace(scenario, data=data))
    actual = resumed(old, cut, saves=saves, then=replace(scenario, data=data))
    check_counts(saves)
    assert ids(expected) == ids(actual)
    assert expected.weights == actual.weights


@pytest.mark.parametrize("kind", ["single", "cyclic"])
@pytest.mark.parametrize("step", [3, 7])
def test_a_decorated_state_goes_on_in_the_mixin(kind: Any, step: int) -> None:
    """The way back: the old class goes on as it does with its own state."""
    scenario = Scenario(kind=kind)
    old = replace(scenario, data="mixin", rebases={"train": 1})
    saves: list[tuple[int, int]] = []
    assert resumed(old, saved_after_step(step)) == resumed(scenario, saved_after_step(step), saves=saves, then=old)
    check_counts(saves)


@pytest.mark.parametrize("transforms", ["strategy", "datamodule"])
@pytest.mark.parametrize("step", [5, 11])
@pytest.mark.parametrize("scenario", [WHOLE, MICRO, KINDS["cyclic"]], ids=["whole", "micro", "cyclic"])
def test_a_checkpoint_without_a_position(scenario: Scenario, step: int, transforms: str) -> None:
    """From before the class was decorated, when it saved nothing: the trainer's counters tell what was trained."""
    scenario = replace(scenario, transforms=frozenset({transforms}))
    before = replace(scenario, data="plain")
    assert uninterrupted(scenario) == resumed(before, saved_after_step(step), then=scenario)


@pytest.mark.parametrize("scenario", [WHOLE, MICRO], ids=["whole", "micro"])
def test_a_run_that_was_stopped_in_mid_epoch(scenario: Scenario) -> None:
    """The epoch is gone on with, though Lightning has run the hooks of its end."""
    check(scenario, stopped((0, 3)))
    check(scenario, stopped((1, 2)), stopped((1, 4)))


class OneMicroBatch(WholeBatches):
    """Takes what it gets, and tells the sampler nothing."""

    def loss(self, batch: object) -> Any:
        return Recording.loss(self, batch)


@pytest.mark.parametrize("cut", [saved_after_step(3), saved_after_step(6), raised_in("training_step", (0, 5))], ids=str)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_that_takes_one_micro_batch(accumulated: int, cut: Cut) -> None:
    """`training_step(batch)` trains what it gets, though the sampler counts a global batch for each call."""
    scenario = replace(
        WHOLE,
        module=OneMicroBatch,
        global_batch_size=16,
        trainer={"max_epochs": 2, "accumulate_grad_batches": accumulated},
    )
    saves: list[tuple[int, int]] = []
    assert 2 * list(range(64)) == ids(resumed(scenario, cut, saves=saves))
    check_counts(saves)


@pytest.mark.parametrize("size", [4, 16])
def test_another_batch_size_in_mid_epoch(size: int) -> None:
    """The rest of the epoch comes in batches of the new size, and so does all of each later one."""
    then = replace(WHOLE, micro_batch_size=size, global_batch_size=size)
    run = resumed(WHOLE, saved_after_step(4), then=then)
    assert 3 * list(range(64)) == ids(run)
    assert [4 + 32 // size, 64 // size, 64 // size] == [run.batches(epoch) for epoch in range(3)]


@pytest.mark.parametrize("samples", [64, 99, 102])
@pytest.mark.parametrize(("before", "after"), [(2, 8), (2, 6), (6, 4), (8, 2)])
@pytest.mark.parametrize("kind", ["single", "batch"])
def test_another_batch_size_where_steps_draw_their_batches(kind: Any, samples: int, before: int, after: int) -> None:
    """The rest of the epoch is trained to its end: Lightning counts steps there, against the batches that there are."""
    first, then = (
        replace(MICRO, samples=samples, kind=kind, micro_batch_size=size, global_batch_size=size)
        for size in (before, after)
    )
    run = resumed(first, saved_after_step(5), then=then)
    behind = 5 * before
    wanted = [behind + (samples - behind) // after * after, samples // after * after, samples // after * after]
    assert [list(range(count)) for count in wanted] == [run.ids(epoch) for epoch in range(3)]


@pytest.mark.parametrize("is_validated", [False, True])
@pytest.mark.parametrize("scenario", [WHOLE, MICRO, replace(MICRO, kind="batch")], ids=["whole", "micro", "batch"])
def test_an_epoch_without_a_batch_of_the_new_size_is_over(scenario: Scenario, is_validated: bool) -> None:
    """What is left of it is dropped; the next epoch begins, and there is no epoch more."""
    trainer = VALIDATED if is_validated else EPOCHS
    first = replace(scenario, samples=55, trainer=trainer, micro_batch_size=6, global_batch_size=6)
    run = resumed(first, saved_after_step(8), then=replace(first, micro_batch_size=8, global_batch_size=8))
    assert [list(range(48))] * 3 == [run.ids(epoch) for epoch in range(3)]
    assert (8 + 6 + 6, 3) == (run.global_step, run.current_epoch)


def test_a_datamodule_that_saves_its_sampler_as_a_hyperparameter() -> None:
    """A sampler that is watched and placed is pickled as the one that it was."""
    scenario = replace(WHOLE, trainer={"max_steps": 3, "max_epochs": -1})
    trainer: Any = train(scenario)
    sampler = trainer.datamodule.data_sampler
    copied = pickle.loads(pickle.dumps(trainer.fit_loop._combined_loader.flattened[0].batch_sampler))
    assert list(range(8)) == next(iter(copied))
    sampler.trainer = None
    copied = pickle.loads(pickle.dumps(sampler))
    assert list(range(8)) == next(iter(copied.transform_dataloader(trainer.train_dataloader).batch_sampler))


@pytest.mark.parametrize("name", ["explicit", "bare"])
def test_loaded_and_saved_without_a_trainer_it_is_the_same(name: str) -> None:
    """Epoch, offset and order too, which only a train loader can tell anew."""
    trainer: Any = train(replace(WHOLE, data=name, trainer={"max_steps": 11, "max_epochs": -1}))
    saved = trainer.datamodule.state_dict()
    data = data_class(name)(WHOLE)
    data.load_state_dict(saved)
    assert (saved, 1, 24) == (data.state_dict(), saved["epoch"], saved["offset"])
