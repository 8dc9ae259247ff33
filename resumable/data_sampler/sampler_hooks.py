"""Two methods of a data sampler, hooked in the instance.

transform_dataloader    the train loaders that it makes are built at 0, and start where the count is
on_megatron_step_end    what a step takes is noted before the sampler moves the calculator
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from resumable.data_sampler.placed_loader import PositionSource, SeekableSampler, loaders_in, seekable
from resumable.errors import ConfigurationError

if TYPE_CHECKING:
    from resumable.data_sampler.progress import DataSamplerProgress

__all__ = ["StepHook", "TransformHook"]


class _Hook:
    """Takes the place of a method in *sampler*, or of an earlier hook. Copies and pickles have the method alone."""

    name: ClassVar[str]

    def __init__(self, sampler: Any) -> None:
        method: Any = getattr(sampler, self.name, None)
        self.method: Any = method.method if isinstance(method, _Hook) else method
        self.__wrapped__: Any = self.method  # NeMo looks at the signature to see what it takes
        if method is not None and hasattr(sampler, "__dict__"):
            vars(sampler)[self.name] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (self.method,)


class StepHook(_Hook):
    """Shows *progress* each training step that the sampler hears of.

    NeMo calls `sampler.on_megatron_step_end(step)` after validation steps too, and before the trainer's step count
    moves: `step.step_i` is the number of steps before this one (NeMo 2, lightning/megatron_parallel.py).
    """

    name = "on_megatron_step_end"

    def __init__(self, sampler: object, progress: DataSamplerProgress) -> None:
        super().__init__(sampler)
        self._progress = progress

    def __call__(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        """What the method returns, between the two notes."""
        if not hasattr(step, "step_i"):
            return self.method(step, *args, **kwargs)
        in_training = getattr(getattr(step, "trainer", None), "training", True)
        number, trains = int(step.step_i), bool(in_training) and not getattr(step, "forward_only", False)
        if trains:
            self._progress.step_starts(number)
        returned = self.method(step, *args, **kwargs)
        self._progress.set_calculator(number + trains)
        return returned


class TransformHook(_Hook):
    """The train loaders of *sampler*: those that its method makes, and others.

    Each is made seekable once, and *finish* changes it in place.
    """

    name = "transform_dataloader"

    def __init__(self, sampler: Any, source: PositionSource, finish: Callable[[Any], object]) -> None:
        super().__init__(sampler)
        self._sampler = sampler
        self._source = source
        self._finish = finish
        self._is_building = False
        self._epoch: tuple[int, int] | None = None
        self.is_unplaced: bool = False
        """Whether it has taken a loader that begins wherever it likes."""
        self._taken: WeakSet[Any] = WeakSet()

    @contextmanager
    def building(self) -> Generator[None, None, None]:
        """What is transformed inside the block is a train loader, unless its mode says another thing."""
        self._is_building = True
        try:
            yield
        finally:
            self._is_building = False

    def take(self, loader: Any) -> Any:
        """The train loader *loader*, made seekable. A strategy may transform it later, as NeMo's does."""
        if loader not in self._taken:
            begin_at_the_count = [self._place(each, is_held=each is not loader) for each in loaders_in(loader)]
            self.is_unplaced = self.is_unplaced or not any(begin_at_the_count)
            self._finish(loader)
            with suppress(TypeError):  # a list has no weak references
                self._taken.add(loader)
        return loader

    def _place(self, loader: Any, *, is_held: bool) -> bool:
        """Place *loader* once; False where it begins wherever it likes."""
        if loader in self._taken:
            return True
        placed = seekable(loader, self._sampler, self._source, is_held=is_held)
        if isinstance(placed, SeekableSampler):
            epoch = (placed.total_samples, placed.samples_per_batch)
            self._epoch = self._epoch or epoch
            if epoch != self._epoch:
                raise ConfigurationError(
                    "A data sampler counts the epochs of one train loader.",
                    [("total_samples and samples of a batch", self._epoch), ("of another loader", epoch)],
                    "Return one train loader, or several of the same length and batch size.",
                )
            self._source.place(placed)
        return placed is not None

    def __call__(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """What the method makes of *dataloader*, begun at 0, and taken if it is a train loader."""
        count = self._sampler.init_consumed_samples
        self._sampler.init_consumed_samples = 0
        try:
            made = self.method(dataloader, *args, **kwargs)
        finally:
            self._sampler.init_consumed_samples = count
        is_train = self._is_building and getattr(dataloader, "mode", "train") == "train"
        return self.take(made) if is_train or dataloader in self._taken else made
