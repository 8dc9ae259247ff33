"""Modules that take their steps as NeMo does, and remember what went into each.

    WholeBatches     `training_step(batch)`: a batch is a global batch
    MicroBatches     `training_step(dataloader_iter)`: it pulls as many micro batches as the calculator says
    TwoOptimizers    steps by hand, twice for each batch

A step that does not take what the calculator says at its beginning is an error in the harness, and raised at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from tests.support import nemo_shape, recording
from tests.support.recording import ids_of

if TYPE_CHECKING:
    from torch.optim import Optimizer


class WholeBatches(recording.Recording):
    """Each batch is a global batch, and is announced to the sampler before the optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[tuple[int, int]] = []

    def loss(self, batch: object) -> Tensor:
        sampler: Any = self.datamodule.data_sampler
        loss, forward_only = super().loss(batch), not self.trainer.training
        taken = len(recording.flat(ids_of(batch)))
        assert forward_only or taken == sampler.micro_batch_size * sampler.num_microbatches
        step = nemo_shape.MegatronStep(
            trainer=self.trainer, pl_module=self, forward_only=forward_only, step_i=self.trainer.global_step
        )
        nemo_shape.announce(sampler, "on_megatron_step_end", step=step, microbatch_outputs=[loss], reduced=loss)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        state = checkpoint.get(type(self.datamodule).__qualname__)
        if state is not None:  # an undecorated class may save none
            self.saves.append((state["consumed_samples"], self.trained))

    @property
    def trained(self) -> int:
        """The samples of all completed optimizer steps of the run."""
        return sum(len(recording.flat(ids)) for step in self.history.steps for _, ids in step.batches)

    @property
    def datamodule(self) -> Any:
        """The one that is trained on."""
        trainer: Any = self.trainer  # Lightning sets the attribute when it connects one
        return trainer.datamodule


class MicroBatches(WholeBatches):
    """Each step pulls its micro batches; data that ends within a step ends the epoch, and that step is none."""

    _pulled = 0

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]  # Lightning's other form
        micro_batches: list[Tensor] = [next(dataloader_iter)[0]]
        self.reached("training_step")  # within the step, when some of it is drawn
        micro_batches += [next(dataloader_iter)[0] for _ in range(self.datamodule.data_sampler.num_microbatches - 1)]
        loaders = CombinedLoader(self.trainer.train_dataloader).flattened
        self.history.lengths[self.trainer.current_epoch] = (
            self.trainer.num_training_batches,
            *map(sized_len, loaders),
        )
        self._pulled = len(micro_batches)
        self._window += [(number, ids_of(batch)) for number, batch in enumerate(micro_batches)]
        return self.loss(torch.cat(micro_batches))

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self._window = self._window[-self._pulled :]


class StopsWhereTheRampMoves(MicroBatches):
    """NeMo's sampler ends the session with the step in which the batch size is another."""

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        step = nemo_shape.MegatronStep(
            trainer=self.trainer, pl_module=self, forward_only=False, step_i=self.trainer.global_step
        )
        nemo_shape.announce(self.datamodule.data_sampler, "on_megatron_microbatches_start", step=step)
        return super().training_step(dataloader_iter)


class TwoOptimizers(WholeBatches, recording.TwoOptimizers):
    """Manual optimization; each batch steps two optimizers."""
