"""A ledger is bounded: what a run repeats does not make it grow, and what it gives up is said, and refused afterwards."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable import ConstantBatchSize, Ledger, LinearRampup, ResumptionState, ResumptionWarning, StateError
from resumable.saved.ledger import MOST, Stretch
from resumable.saved.schedule_format import UserSchedule, ledger_schedule
from resumable.steps.batch_plan import UNBOUNDED
from tests.support.reference import Loader


def resumed(state: dict[str, Any] | None, batches: int, length: int = 100, **options: Any) -> dict[str, Any]:
    """What a loader with these options saves, so many batches after it went on from *state*."""
    loader = Loader(range(length), **{"batch_size": 4, **options})
    if state is not None:
        loader.load_state_dict(state)
    for _ in range(batches):
        next(iter(loader))
        loader.commit()
    saved: dict[str, Any] = loader.state_dict()
    return saved


A, B = Stretch(length=10**6, micro_batch_size=4), Stretch(length=10**6, micro_batch_size=2, data_parallel_size=2)
OTHERS = [
    replace(A, num_workers=3),
    replace(A, micro_batch_size=8),
    replace(A, accumulation=2),
    replace(A, schedule=ConstantBatchSize(4)),
    replace(A, limit=7),
    replace(A, drop_last=True),
    replace(A, schedule=ledger_schedule(LinearRampup(4, 16, 4, 1000))),
]


def alternating(stretches: list[Stretch], changes: int, steps: int) -> tuple[Ledger, Ledger, list[str]]:
    """The ledger of a run that changes its configuration so often, one without a bound, and what was said meanwhile."""
    ledger, whole = Ledger(), Ledger()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        at = stretches[0]
        for number in range(changes):
            at = replace(
                stretches[number % len(stretches)], step=at.step, sample=at.sample, epoch=at.epoch, offset=at.offset
            )
            ledger, whole = ledger.note(at), Ledger((*whole, at))
            after = at.position_after(steps)
            at = replace(
                at, step=at.step + steps, sample=after.consumed_samples, epoch=after.epoch, offset=after.offset
            )
    return ledger, whole, [str(warning.message) for warning in caught]


@given(st.lists(st.sampled_from([A, B, *OTHERS]), min_size=2, max_size=5, unique=True), st.integers(1, 9))
def test_what_is_kept_is_right_and_the_rest_is_refused(stretches: list[Stretch], steps: int) -> None:
    """Step and sample of all that is kept are those of a ledger without a bound; before it, nothing is guessed."""
    ledger, whole, said = alternating(stretches, 3 * MOST, steps)
    assert len(ledger) <= MOST
    assert said
    first, last = ledger.stretches[0], whole.stretches[-1]
    for step in {first.step, first.step + 1, (first.step + last.step) // 2, last.step, last.step + 5}:
        sample = whole.consumed_samples_at(step)
        assert (sample, step) == (ledger.consumed_samples_at(step), ledger.global_step_at(sample))
    if first.step:
        with pytest.raises(StateError, match=f"more than {MOST} times"):
            ledger.consumed_samples_at(first.step - 1)
        with pytest.raises(StateError, match=f"'step {first.step}, sample {first.sample}'"):
            ledger.global_step_at(first.sample - 1)


def test_a_run_that_takes_the_same_steps_in_turns_loses_none() -> None:
    """Two groupings of the same batches, other workers: one stretch says which step trained which sample; it is said."""
    ledger, whole, said = alternating([A, B, replace(A, num_workers=2)], 10 * MOST, 3)
    assert (0, 0) == (ledger.stretches[0].step, ledger.stretches[0].sample)
    for step in range(0, 30 * MOST, 7):
        assert whole.consumed_samples_at(step) == ledger.consumed_samples_at(step)
    assert [line for line in said if "On how many ranks and workers each step was trained is no longer known." in line]
    assert ledger.stretches[-1].same_configuration(whole.stretches[-1])


def test_what_is_given_up_is_said_once() -> None:
    """Half of the stretches go at once, so that it is said for so many changes, and not at each of them."""
    said = alternating([A, OTHERS[1]], 4 * MOST, 2)[2]
    assert len(said) < 4 * 2
    assert said[0] == (
        "The run has changed its configuration 128 times, as often as its ledger can hold.\n"
        "  stretches: 129\n  kept:      64\n  from:      'step 130, sample 776'\n"
        "What came before is no longer known. Resumes stay exact."
    )


@pytest.mark.parametrize("other", [{"batch_size": 2}, {"data_parallel_rank": 0, "data_parallel_size": 2}, {"seed": 0}])
def test_resumes_without_training_add_nothing(other: dict[str, Any]) -> None:
    """Configurations that take turns at one position leave a state as it is, however often."""
    state = first = resumed(None, 3, shuffle=True)
    for _ in range(5):
        state = resumed(resumed(state, 0, shuffle=True, **other), 0, shuffle=True)
    assert first == state
    assert 1 == len(resumed(state, 1, shuffle=True)["ledger"])


def test_a_state_stays_small_over_thousands_of_resumes() -> None:
    """Alternating batch sizes, with training in between: some 8 KB, the position exact, and the ledger right at its end."""
    state: dict[str, Any] | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResumptionWarning)
        for number in range(1_000):
            state = resumed(state, 2, batch_size=(1, 2)[number % 2])
    assert state is not None
    assert (3_000, 30, 0) == (state["consumed_samples"], state["epoch"], state["offset"])
    assert len(json.dumps(state)) < 62 * MOST
    loaded = ResumptionState()
    loaded.load_state_dict(state)
    assert (2_000, 3_000) == (loaded.ledger.global_step_at(3_000), loaded.ledger.consumed_samples_at(2_000))
    assert (1_998, 2_996) == (loaded.ledger.global_step_at(2_996), loaded.ledger.consumed_samples_at(1_998))


def test_a_ledger_that_is_longer_already_is_read() -> None:
    """An older state may have thousands of stretches; they stay until the configuration changes again."""
    whole = alternating([A, OTHERS[1]], 3 * MOST, 2)[1]
    last = replace(whole.stretches[-1], step=10**4, sample=10**5)
    assert whole is whole.note(last)
    with pytest.warns(ResumptionWarning, match="as often as its ledger can hold"):
        assert MOST // 2 == len(whole.note(replace(last, micro_batch_size=3)))


def test_stretches_of_unknown_epochs_and_schedules() -> None:
    """A data sampler's stretches are joined by their samples; those of a user-defined schedule never are."""
    sampled = replace(A, length=UNBOUNDED, drop_last="carry")
    following = replace(sampled, step=5, sample=20, num_workers=1)
    assert sampled.takes_on(following)
    assert not sampled.takes_on(replace(following, sample=21))
    assert not replace(A, schedule=UserSchedule("Mine")).takes_on(
        replace(A, schedule=UserSchedule("Mine"), step=5, sample=20)
    )
