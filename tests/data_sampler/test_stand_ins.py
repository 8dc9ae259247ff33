"""A mixin's own methods under the decorator, where trainer, data sampler or calculator are not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from resumable import resumable
from tests.support import nemo_shape

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)


def sampler() -> Any:
    """A data sampler of NeMo's shape."""
    return nemo_shape.MegatronDataSampler(seq_len=1, micro_batch_size=2, global_batch_size=8)


class Mixin:
    """NeMo's dozen lines, as its datamodules copy them."""

    trainer: Any = None
    data_sampler: Any
    init_global_step = 0

    def train_dataloader(self) -> Any:
        """Never asked for here."""

    def state_dict(self) -> dict[str, Any]:
        steps = self.trainer.global_step - self.init_global_step
        return {"consumed_samples": self.data_sampler.compute_consumed_samples(steps)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        count = state_dict["consumed_samples"]
        self.data_sampler.init_consumed_samples = count
        self.data_sampler.prev_consumed_samples = count
        nemo_shape.calculators().update_num_microbatches(consumed_samples=count, consistency_check=False)
        self.data_sampler.if_first_step = 1


@resumable(sampler="data_sampler")
class Data(Mixin):
    """It saves something of its own besides."""

    def __init__(self) -> None:
        self.data_sampler = sampler()
        self.mine = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mine": self.mine}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.mine = state_dict["mine"]


@resumable
class BuiltInSetup(Data):
    """Its sampler comes with `setup`, as that of NeMo's `FineTuningDataModule`."""

    def __init__(self) -> None:
        super().__init__()
        self.data_sampler = None

    def setup(self) -> None:
        self.data_sampler = sampler()


def test_without_a_trainer_the_last_known_count_is_saved() -> None:
    """Not the mixin's AttributeError on None, nor a 0; what the class saves besides is saved."""
    data = Data()
    data.load_state_dict({"consumed_samples": 40, "mine": 3})
    saved = data.state_dict()
    assert (40, 3, None) == (saved["consumed_samples"], saved["mine"], data.trainer)


def test_a_trainer_that_is_no_attribute_yet() -> None:
    """A class may declare it and never set it."""
    data: Any = Data()
    trainer = Mixin.trainer
    try:
        del Mixin.trainer
        data.load_state_dict({"consumed_samples": 40, "mine": 3})
        assert (40, False) == (data.state_dict()["consumed_samples"], hasattr(data, "trainer"))
    finally:
        Mixin.trainer = trainer


def test_a_calculator_that_is_not_initialized_cuts_no_load_short() -> None:
    """What the class loads behind the mixin's lines is loaded as well, and the calculator is as it was."""
    data = Data()
    data.load_state_dict({"consumed_samples": 40, "mine": 3})
    marks = data.data_sampler.init_consumed_samples, data.data_sampler.if_first_step
    assert (3, (40, 1), None) == (data.mine, marks, nemo_shape.calculators()._GLOBAL_NUM_MICROBATCHES_CALCULATOR)


def test_a_state_loaded_before_the_sampler_is_there() -> None:
    """It ends up where a state does that is loaded behind `setup`."""
    before, after = BuiltInSetup(), BuiltInSetup()
    before.load_state_dict({"consumed_samples": 40, "mine": 3})
    assert (40, None) == (before.state_dict()["consumed_samples"], before.data_sampler)
    before.setup()
    after.setup()
    after.load_state_dict({"consumed_samples": 40, "mine": 3})
    assert after.state_dict() == before.state_dict()
    assert vars(after.data_sampler).keys() == vars(before.data_sampler).keys()
    assert (40, 3) == (before.data_sampler.init_consumed_samples, before.mine)


@pytest.mark.parametrize("part", ["trainer", "data_sampler", "elsewhere"])
def test_any_other_error_is_raised(part: str) -> None:
    """What the class asks of something else that is None is its own affair."""

    class Broken(Data):
        def state_dict(self) -> dict[str, Any]:
            lacking: Any = None if part == "elsewhere" else getattr(self, part)
            return {"asked": lacking.no_such_thing}

    with pytest.raises(AttributeError, match="no_such_thing"):
        Broken().state_dict()
