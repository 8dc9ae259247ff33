"""The recording module of one process, on many: it remembers what every rank trained, under each of Lightning's strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import Linear, Module
from torch.optim import SGD

from tests.support.recording import Budgeted, Recording, TwoOptimizers

__all__ = ["STRATEGIES", "BudgetedRanks", "Gathering", "TwoOptimizersOnRanks"]


class Gathering(Recording):
    """A batch of one of its steps holds the ids of each rank, in the order of the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.final: dict[str, list[float]] = {}

    def note_step(self, steps_before: int, rate: float) -> None:
        windows: list[Any] = [self._window]
        if dist.is_initialized():
            windows = [None] * dist.get_world_size()
            dist.all_gather_object(windows, self._window)
        self._window = [(entries[0][0], tuple(ids for _, ids in entries)) for entries in zip(*windows, strict=True)]
        super().note_step(steps_before, rate)

    def on_train_end(self) -> None:
        self.final = {name: weight.reshape(-1).tolist() for name, weight in self.whole().items()}

    def whole(self) -> dict[str, Tensor]:
        """The weights, of which each rank may have a part; every rank asks, and rank 0 is answered."""
        return self.trainer.strategy.lightning_module_state_dict()


class BudgetedRanks(Gathering, Budgeted):
    """Asks for `estimated_stepping_batches`."""


class TwoOptimizersOnRanks(Gathering, TwoOptimizers):
    """Steps by hand."""


class Flat(Gathering):
    """Under FSDP: its parameters become one flat one, of single precision since Lightning has no double for it."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def loss(self, batch: Any) -> Tensor:
        features = torch.sin(batch[:, None] * torch.arange(1, 5)).float()
        return ((features @ self.weight - torch.cos(batch)) ** 2).mean()

    def whole(self) -> dict[str, Tensor]:
        assert self.trainer.model is not None
        with FullyShardedDataParallel.summon_full_params(self.trainer.model, writeback=False):
            return {"weight": self.weight.detach().clone()}

    def configure_optimizers(self) -> Any:
        assert isinstance(self.trainer.model, FullyShardedDataParallel)
        return SGD(self.trainer.model.parameters(), lr=0.05, momentum=0.9)


class FSDPOnCPU(FSDPStrategy):
    """Lightning and torch refuse FSDP on a CPU unless they are given the device by its name, which this does.

    Checkpoints are sharded, since torch gathers a whole one in the memory that it frees, where there is no other device.
    """

    def __init__(self) -> None:
        super().__init__(state_dict_type="sharded")

    def _setup_model(self, model: Module) -> Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


class Fully(Gathering):
    """Under FSDP2: its parameters are sharded over the data-parallel ranks."""

    linear: Linear

    def __init__(self) -> None:
        super().__init__()
        del self.weight

    def loss(self, batch: Any) -> Tensor:
        features = torch.sin(batch.double()[:, None] * torch.arange(1, 5))
        predicted: Tensor = self.linear(features).squeeze(1)
        return ((predicted - torch.cos(batch.double())) ** 2).mean()

    def configure_model(self) -> None:
        if not hasattr(self, "linear"):
            self.linear = Linear(4, 1, bias=False, dtype=torch.float64)
            torch.nn.init.zeros_(self.linear.weight)
            assert self.device_mesh is not None
            fully_shard(self.linear, mesh=self.device_mesh["data_parallel"])


def _fully(ranks: int, tensor_parallel: int) -> Strategy:
    return ModelParallelStrategy(ranks // tensor_parallel, tensor_parallel, save_distributed_checkpoint=False)


STRATEGIES: dict[str, tuple[Callable[[int], Strategy | str], type[Gathering]]] = {
    "auto": (lambda ranks: "auto", Gathering),
    "ddp": (lambda ranks: "ddp", Gathering),
    "fsdp": (lambda ranks: FSDPOnCPU(), Flat),
    "fsdp2": (lambda ranks: _fully(ranks, 1), Fully),
    "fsdp2_with_two_tensor_parallel_ranks": (lambda ranks: _fully(ranks, 2), Fully),
}
"""From the number of ranks to Lightning's strategy, and the module that it trains."""
