"""What a Megatron-style datamodule works with, in the shape that NeMo 2 gives it, for one process on a CPU.

    MegatronDataSampler   counts samples, moves the calculator, puts Megatron's batch samplers into loaders
    WrappedDataLoader     a loader that knows what it is for
    MegatronStrategy      sets the sampler up, and hands it every loader
    MegatronDataModule    BioNeMo's mixin: the count in the datamodule's state
    announce              an event of NeMo's, told with what the listener's signature takes

The calculator is megatron-core's own. Sources of the behaviour, faults included: NeMo 2.4.0
(lightning/pytorch/plugins/data_sampler.py, lightning/data.py, lightning/megatron_parallel.py,
lightning/pytorch/strategies/utils.py) and bionemo-llm 2.4.5 (data/datamodule.py).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader
from typing_extensions import override

DataloaderType = Literal["single", "cyclic", "batch"]


def has_megatron_core() -> bool:
    """Whether megatron-core is installed; it is not imported."""
    return find_spec("megatron") is not None and find_spec("megatron.core") is not None


def calculators() -> Any:
    """megatron-core's module of calculators, with its global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Transformer Engine and Apex, which are not there
        return import_module("megatron.core.num_microbatches_calculator")


@dataclass(frozen=True)
class MegatronStep:
    """What listeners are told of a step, in training (`forward_only=False`) and in validation."""

    trainer: Any
    pl_module: Any
    forward_only: bool
    step_i: int
    seq_length: int | None = None
    micro_batch_size: int | None = None
    num_microbatches: int | None = None
    decoder_seq_length: int | None = None


def announce(listener: object, event: str, **told: object) -> Any:
    """Call *listener*'s method for *event* with what its signature takes, all of it where that takes any keyword."""
    method = getattr(listener, event, None)
    if method is None:
        return None
    parameters = inspect.signature(method).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return method(**{name: value for name, value in told.items() if takes_all or name in parameters})


class WrappedDataLoader(DataLoader[Any]):
    """A loader with its *mode*: "train", "validation", "test" or "predict"."""

    def __init__(self, mode: str = "train", **options: Any) -> None:
        super().__init__(**options)
        self.mode = mode


class BatchesInOrder:
    """Megatron's "single": micro batches in the dataset's order, from the consumed samples on."""

    def __init__(
        self, total_samples: int, consumed_samples: int, micro_batch_size: int, global_batch_size: int
    ) -> None:
        self.total_samples = total_samples
        self.consumed_samples = consumed_samples
        self.micro_batch_size = micro_batch_size
        self.micro_batch_times_data_parallel_size = micro_batch_size  # of one process
        self.global_batch_size = global_batch_size
        self.drop_last = True
        self.check()

    def check(self) -> None:
        """Refuse to begin behind the last sample."""
        if self.consumed_samples >= self.total_samples:
            raise RuntimeError(f"no samples left to consume: {self.consumed_samples}, {self.total_samples}")

    def __len__(self) -> int:
        return self.total_samples // self.global_batch_size * (self.global_batch_size // self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        size = self.micro_batch_size
        for start in range(self.consumed_samples, self.total_samples - size + 1, size):
            yield list(range(start, start + size))


class BatchesAtRandom(BatchesInOrder):
    """Megatron's "cyclic": shuffled anew for each epoch, all epochs one stream; it counts what it yields."""

    def check(self) -> None:
        """Any number of samples may be consumed."""

    def __len__(self) -> int:
        return (self._active - self.consumed_samples % self._active) // self.micro_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        epoch, offset = divmod(self.consumed_samples, self._active)
        stream = torch.Generator().manual_seed(epoch)
        order = cast("list[int]", torch.randperm(self._active, generator=stream).tolist())
        size = self.micro_batch_size
        for start in range(offset, self._active, size):
            self.consumed_samples += size
            yield order[start : start + size]

    @property
    def _active(self) -> int:
        return self.total_samples - self.total_samples % self.micro_batch_size


class GlobalBatchesInOrder(BatchesInOrder):
    """NeMo's "batch": a whole global batch at once, from the consumed samples of the epoch on."""

    def check(self) -> None:
        """Any number of samples may be consumed."""

    def __len__(self) -> int:
        return (self.total_samples - self.consumed_samples % self.total_samples) // self.global_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        first, size = self.consumed_samples % self.total_samples, self.global_batch_size
        for start in range(first, self.total_samples - size + 1, size):
            yield list(range(start, start + size))


_BATCHES: dict[str, type[BatchesInOrder]] = {
    "single": BatchesInOrder,
    "cyclic": BatchesAtRandom,
    "batch": GlobalBatchesInOrder,
}


class MegatronDataSampler:
    """Counts by its own rules: behind a load it has to be told `init_consumed_samples`, and a ramp lags by its first batch."""

    trainer: Any

    def __init__(
        self,
        seq_len: int,
        *,
        micro_batch_size: int = 4,
        global_batch_size: int = 8,
        rampup_batch_size: list[int] | None = None,
        dataloader_type: DataloaderType = "single",
        init_consumed_samples: int = 0,
        init_global_step: int = 0,
        output_log: bool = True,
    ) -> None:
        self.seq_len = seq_len
        self.decoder_seq_len: int | None = None
        self.output_log = output_log
        self.micro_batch_size = micro_batch_size
        self.global_batch_size = global_batch_size
        self.rampup_batch_size = rampup_batch_size
        self.dataloader_type = dataloader_type
        self.init_consumed_samples = init_consumed_samples
        self.prev_consumed_samples = init_consumed_samples
        self.if_first_step = 0
        self.prev_global_batch_size: int | None = None
        self.init_global_step = init_global_step

    def connect(self, trainer: Any) -> None:
        """Count for *trainer*."""
        self.trainer = trainer

    def setup(self, global_rank: int) -> None:
        """Initialize the calculator; a ramp's is initialized once in a process."""
        core = calculators()
        if core._GLOBAL_NUM_MICROBATCHES_CALCULATOR is None:
            core.init_num_microbatches_calculator(
                rank=global_rank,
                rampup_batch_size=self.rampup_batch_size,
                global_batch_size=self.global_batch_size,
                micro_batch_size=self.micro_batch_size,
                data_parallel_size=1,
            )
        elif self.rampup_batch_size is not None or core.get_current_global_batch_size() != self.global_batch_size:
            raise RuntimeError("the calculator is initialized already")

    def transform_dataloader(self, dataloader: Any, consumed_samples: int = 0) -> DataLoader[Any]:
        """*dataloader* anew, with Megatron's batches; a train loader begins at `init_consumed_samples`."""
        is_train = getattr(dataloader, "mode", "train") == "train"
        batches = _BATCHES[self.dataloader_type](
            total_samples=len(dataloader.dataset),
            consumed_samples=self.init_consumed_samples if is_train else 0,
            micro_batch_size=self.micro_batch_size,
            global_batch_size=self.global_batch_size,
        )
        return DataLoader(
            dataloader.dataset,
            batch_sampler=batches,
            num_workers=dataloader.num_workers,
            pin_memory=dataloader.pin_memory,
            persistent_workers=dataloader.persistent_workers,
            collate_fn=dataloader.collate_fn,
        )

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        """The count; 0 without a trainer of Megatron's."""
        trainer = getattr(self, "trainer", None)
        if trainer is None or not isinstance(trainer.strategy, MegatronStrategy):
            return 0
        if self.rampup_batch_size is not None:
            return int(self.prev_consumed_samples + self.if_first_step * self.current_global_batch_size)
        return int(self.init_consumed_samples + steps_since_resume * self.micro_batch_size * self.num_microbatches)

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """*step*, told what it takes."""
        return replace(
            step,
            seq_length=self.seq_len,
            micro_batch_size=self.micro_batch_size,
            num_microbatches=self.num_microbatches,
            decoder_seq_length=self.decoder_seq_len,
        )

    def on_megatron_microbatches_start(self, step: MegatronStep) -> None:
        """Stop the training where a ramp has moved, to be validated, saved and started anew."""
        before = self.prev_global_batch_size
        if step.trainer and self.rampup_batch_size is not None and before and before != self.current_global_batch_size:
            step.trainer.should_stop = True

    def on_megatron_step_end(self, step: MegatronStep) -> None:
        """Move count and calculator, behind validation steps too; not in the first step of a run."""
        self.prev_global_batch_size = self.current_global_batch_size
        if step.step_i:
            consumed_samples = self.compute_consumed_samples(step.step_i + 1 - self.init_global_step)
            self.prev_consumed_samples = consumed_samples
            calculators().update_num_microbatches(consumed_samples=consumed_samples, consistency_check=False)
        self.if_first_step = 1

    @property
    def num_microbatches(self) -> int:
        """Of the step that begins now."""
        return int(calculators().get_num_microbatches())

    @property
    def current_global_batch_size(self) -> int:
        """Of the step that begins now."""
        return int(calculators().get_current_global_batch_size() or 1)


class MegatronStrategy(SingleDeviceStrategy):
    """Sets up the datamodule's sampler and hands it the loaders.

    *restores_first*: checkpoints are loaded before the calculator is initialized; NeMo loads them behind it.
    *transforms*: the loaders are handed to the sampler; else the datamodule does that.
    """

    def __init__(self, *, restores_first: bool = False, transforms: bool = True) -> None:
        super().__init__(device="cpu")
        self.data_sampler: Any = None
        self._restores_first = restores_first
        self._transforms = transforms

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return not self._restores_first

    @override
    def setup(self, trainer: L.Trainer) -> None:
        datamodule: Any = getattr(trainer, "datamodule", None)
        self.data_sampler = getattr(datamodule, "data_sampler", None)
        if self.data_sampler is not None:
            self.data_sampler.setup(0)
            self.data_sampler.connect(trainer)
        super().setup(trainer)

    @override
    def process_dataloader(self, dataloader: object) -> object:
        if self.data_sampler is None or not self._transforms:
            return dataloader
        return self.data_sampler.transform_dataloader(dataloader)


class MegatronDataModule(L.LightningDataModule):
    """The mixin that resumption needs without a decorator; its rebase has to be called with each new loader."""

    data_sampler: Any

    def __init__(self) -> None:
        super().__init__()
        self.init_global_step = 0

    def update_init_global_step(self) -> None:
        """Count the steps from now on, and leave the samples as they were counted."""
        assert self.trainer is not None
        self.init_global_step = self.trainer.global_step
        self.data_sampler.init_global_step = self.init_global_step

    @override
    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        steps = self.trainer.global_step - self.init_global_step
        return {"consumed_samples": self.data_sampler.compute_consumed_samples(steps)}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        count = state_dict["consumed_samples"]
        self.data_sampler.init_consumed_samples = count
        self.data_sampler.prev_consumed_samples = count
        calculators().update_num_microbatches(consumed_samples=count, consistency_check=False)
        self.data_sampler.if_first_step = 1
