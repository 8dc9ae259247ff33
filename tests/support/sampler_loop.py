"""Loops without Lightning that take their steps as NeMo does, and the two forms in which a state counts with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch.utils.data import DataLoader

from resumable import ResumptionState, resumable
from tests.support import nemo_shape


class Steps:
    """A trainer that counts steps, and no more."""

    def __init__(self, global_step: int = 0) -> None:
        self.global_step = global_step


class Loop:
    """A loop that takes its steps as NeMo does, and knows what they took."""

    def __init__(
        self,
        *,
        rampup: tuple[int, int, int] | None = None,
        is_connected: bool = False,
        micro_batch_size: int = 2,
        global_batch_size: int = 8,
    ) -> None:
        self.sampler: Any = nemo_shape.MegatronDataSampler(
            seq_len=1,
            micro_batch_size=micro_batch_size,
            global_batch_size=global_batch_size,
            rampup_batch_size=list(rampup) if rampup else None,
            output_log=False,
        )
        self.trainer = Steps()
        self.trained = 0
        if is_connected:
            self.sampler.connect(SimpleNamespace(strategy=nemo_shape.MegatronStrategy(), training=True))

    def start(self) -> None:
        """A new process: its calculator begins anew."""
        nemo_shape.calculators().unset_num_microbatches_calculator()
        self.sampler.setup(0)

    def train(self, steps: int, *, validations: int = 0, says: str = "forward_only") -> None:
        """Take *steps*, and behind each so many validation steps, which *says* tells from training steps."""
        for _ in range(steps):
            taken: int = self.sampler.current_global_batch_size
            self._announce(forward_only=False, training=True)
            self.trainer.global_step += 1
            self.trained += taken
            for _ in range(validations):
                self._announce(forward_only=says == "forward_only", training=says == "forward_only")

    def _announce(self, *, forward_only: bool, training: bool) -> None:
        step = nemo_shape.MegatronStep(
            trainer=SimpleNamespace(training=training),
            pl_module=None,
            forward_only=forward_only,
            step_i=self.trainer.global_step,
        )
        nemo_shape.announce(self.sampler, "on_megatron_step_end", step=step, microbatch_outputs=[], reduced=None)


def held(loop: Loop) -> Any:
    """A state as a user holds it."""
    return ResumptionState(loop.sampler, loop.trainer)


def decorated(loop: Loop) -> Any:
    """A datamodule of a decorated class, with the same sampler and trainer."""

    @resumable(sampler="data_sampler")
    class Data:
        def __init__(self) -> None:
            self.data_sampler = loop.sampler
            self.trainer: Steps | None = loop.trainer

        def train_dataloader(self) -> object:
            return DataLoader(range(8))  # type: ignore[arg-type]  # it is never drawn from

        def val_dataloader(self) -> object:
            return [0]

    return Data()
