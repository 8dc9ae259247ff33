"""A `ResumptionState` over a sampler of NeMo's shape in loops without Lightning, and what it does with bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resumable import LinearRampup, ResumptionError, ResumptionState
from tests.support import nemo_shape
from tests.support.sampler_loop import Loop, Steps, decorated, held

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

ATTRIBUTES = ("init_global_step", "init_consumed_samples", "prev_consumed_samples", "if_first_step")
RAMP = (2, 2, 40)

by_form = pytest.mark.parametrize("state_of", [held, decorated])
connected = pytest.mark.parametrize("is_connected", [False, True], ids=["alone", "connected"])


@by_form
@connected
def test_constant_sizes(state_of: Any, is_connected: bool) -> None:
    """Steps times the batch size, over two resumes, with a rebase at any time or never."""
    first = Loop(is_connected=is_connected)
    first.start()
    state = state_of(first)
    first.train(5)
    saved = state.state_dict()
    assert 40 == saved["consumed_samples"]
    second = Loop(is_connected=is_connected)
    second.start()
    state = state_of(second)
    state.load_state_dict(saved)
    assert 40 == state.state_dict()["consumed_samples"]
    state.update_init_global_step()
    second.train(3)
    state.update_init_global_step()
    assert 64 == state.state_dict()["consumed_samples"]


@by_form
@connected
@pytest.mark.parametrize("validations", [0, 2])
@pytest.mark.parametrize("says", ["forward_only", "training"])
@pytest.mark.parametrize("rebases", [False, True])
def test_a_ramp_is_counted_as_its_steps_took_it(
    state_of: Any, is_connected: bool, validations: int, says: str, rebases: bool
) -> None:
    """Behind each step of each of three sessions, validation steps or not."""
    loop = Loop(rampup=RAMP, is_connected=is_connected)
    loop.start()
    state, wanted, got = state_of(loop), list[int](), list[int]()
    for _ in range(3):
        for _ in range(9):
            loop.train(1, validations=validations, says=says)
            if rebases:
                state.update_init_global_step()
            wanted.append(loop.trained)
            got.append(state.state_dict()["consumed_samples"])
        saved, trained, step = state.state_dict(), loop.trained, loop.trainer.global_step
        loop = Loop(rampup=RAMP, is_connected=is_connected)
        loop.start()
        loop.trainer.global_step, loop.trained = step, trained
        state = state_of(loop)
        state.load_state_dict(saved)
        wanted.append(trained)
        got.append(state.state_dict()["consumed_samples"])
    assert wanted == got


@by_form
@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize("rounds", [True, False])
def test_sizes_that_the_calculator_alone_knows(state_of: Any, announces: bool, rounds: bool) -> None:
    """The sampler has no ramp-up and multiplies; the run's calculator was set up with one, whose sizes it may round."""
    loop = Loop()
    increment = 3 if rounds else 2
    nemo_shape.calculators().init_num_microbatches_calculator(
        rank=1,
        rampup_batch_size=[2, increment, 40],
        global_batch_size=2 + 4 * increment,
        micro_batch_size=2,
        data_parallel_size=1,
        decrease_batch_size_if_needed=rounds,
    )
    state, ramp = state_of(loop), LinearRampup(2, 2 + 4 * increment, increment, 40, divisor=2 if rounds else 1)
    state.load_state_dict({"consumed_samples": 8})
    for step in range(1, 10):
        if announces:
            loop.train(1)
        loop.trainer.global_step = step
        assert ramp.samples_after(step, 8) == state.state_dict()["consumed_samples"]


@by_form
def test_a_ramp_in_closed_form(state_of: Any) -> None:
    """Where nobody announces steps and no calculator is initialized, the sampler's ramp says what they take."""
    loop = Loop(rampup=RAMP)
    state = state_of(loop)
    got = []
    for _ in range(20):
        loop.trainer.global_step += 1
        got.append(state.state_dict()["consumed_samples"])
    assert [2, 4, 6, 8, 10, 12, 14, 18, 22, 26, 30, 36, 42, 50, 58, 66, 74, 82, 90, 98] == got


@by_form
@connected
def test_a_trainer_that_is_restored_behind_the_load(state_of: Any, is_connected: bool) -> None:
    """Loaded at step 0, then the trainer leaps to step 5: those five are in the saved count already."""
    loop = Loop(is_connected=is_connected)
    loop.start()
    state = state_of(loop)
    state.load_state_dict({"consumed_samples": 40})
    loop.trainer.global_step = 5
    state.update_init_global_step()
    assert 40 == state.state_dict()["consumed_samples"]
    loop.train(1)
    assert 48 == state.state_dict()["consumed_samples"]


@by_form
@connected
@pytest.mark.parametrize("rampup", [None, RAMP])
def test_a_missing_trainer_never_saves_zero(state_of: Any, is_connected: bool, rampup: Any) -> None:
    """The last known count is kept where NeMo's sampler says 0 for "unknown"."""
    loop = Loop(rampup=rampup, is_connected=is_connected)
    state = state_of(loop)
    state.load_state_dict({"consumed_samples": 40})
    assert 40 == state.state_dict()["consumed_samples"]
    assert 40 == state.state_dict()["consumed_samples"]


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, {"consumed_samples": None}, {"consumed_samples": -8}])
@pytest.mark.parametrize(
    "also", [{"consumed_samples": 8.5}, {"consumed_samples": "40"}, {"consumed_samples": True}, {}]
)
@by_form
def test_a_state_that_is_none_leaves_the_sampler_as_it_was(state_of: Any, state: Any, also: Any) -> None:
    """No count, or one that is no count: an error, and nothing has moved."""
    loop = Loop()
    loop.start()
    resumption = state_of(loop)
    resumption.load_state_dict({"consumed_samples": 40})
    before = {name: getattr(loop.sampler, name) for name in ATTRIBUTES}
    with pytest.raises(ResumptionError):
        resumption.load_state_dict({**state, **also})
    assert before == {name: getattr(loop.sampler, name) for name in ATTRIBUTES}
    assert 40 == resumption.state_dict()["consumed_samples"]


@by_form
@pytest.mark.parametrize("rampup", [None, RAMP])
def test_a_load_writes_what_the_mixin_writes(state_of: Any, rampup: Any) -> None:
    """Count, step and first-step mark in the sampler, and the calculator told."""
    loop = Loop(rampup=rampup)
    loop.trainer.global_step = 5
    loop.start()
    state_of(loop).load_state_dict({"consumed_samples": 30})
    assert [5, 30, 30, 1] == [getattr(loop.sampler, name) for name in ATTRIBUTES]
    assert (6 if rampup else 8) == loop.sampler.current_global_batch_size


class Answers(nemo_shape.MegatronDataSampler):
    """Counts whatever it is told to."""

    answer: Any = 0

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> Any:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [torch.tensor(41.5), torch.tensor([40, 48]), -8, 41.5, None, "40", float("nan"), torch.tensor(-8)],
    ids=str,
)
def test_an_answer_that_is_no_count_is_refused(answer: Any) -> None:
    """With the answer in the message; the sampler is left as it was."""
    sampler: Any = Answers(seq_len=1, micro_batch_size=2, global_batch_size=8)
    trainer = Steps()
    state = ResumptionState(sampler, trainer)
    state.load_state_dict({"consumed_samples": 40})
    before = {name: getattr(sampler, name) for name in ATTRIBUTES}
    trainer.global_step, sampler.answer = 1, answer
    with pytest.raises(ResumptionError):
        state.state_dict()
    assert before == {name: getattr(sampler, name) for name in ATTRIBUTES}


@pytest.mark.parametrize("answer", [48, torch.tensor(48), torch.tensor(48, dtype=torch.int32)], ids=str)
def test_an_integer_of_any_kind_is_a_count(answer: Any) -> None:
    """NeMo's `prev_consumed_samples` may become a tensor; what is saved is an int."""
    sampler: Any = Answers(seq_len=1, micro_batch_size=2, global_batch_size=8)
    trainer = Steps()
    state = ResumptionState(sampler, trainer)
    state.load_state_dict({"consumed_samples": 40})
    trainer.global_step, sampler.answer = 1, answer
    saved = state.state_dict()["consumed_samples"]
    assert (48, int) == (saved, type(saved))


def test_a_count_that_goes_backwards_is_refused() -> None:
    """Samples are not untrained; the last known position stands."""
    sampler: Any = Answers(seq_len=1, micro_batch_size=2, global_batch_size=8)
    trainer = Steps()
    state = ResumptionState(sampler, trainer)
    state.load_state_dict({"consumed_samples": 40})
    trainer.global_step, sampler.answer = 1, 48
    assert 48 == state.consumed_samples
    trainer.global_step, sampler.answer = 2, 32
    with pytest.raises(ResumptionError, match="backwards"):
        state.state_dict()


@pytest.mark.parametrize("prev", [torch.tensor(40), torch.tensor(40, dtype=torch.int32)])
def test_a_ramp_whose_previous_count_is_a_tensor(prev: Any) -> None:
    """The newer of NeMo's samplers keep it on the device."""
    loop = Loop(rampup=RAMP, is_connected=True)
    loop.start()
    state = held(loop)
    state.load_state_dict({"consumed_samples": 40})
    loop.sampler.prev_consumed_samples = prev
    loop.train(1)
    assert (40 + loop.trained, int) == (state.consumed_samples, type(state.consumed_samples))
