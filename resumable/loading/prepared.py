"""Loaders that a framework's loop trains with: the framework leaves them as they are, and its adapter follows their passes.

prepare(accelerator, loader) ──► prepared(...)      the same loader, marked, and followed pass by pass
for batch in loader          ──► MovedPass          each batch as the framework's own loader would yield it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic

from typing_extensions import TypeVar

from resumable.errors import ConfigurationError
from resumable.loading.counted import Counted
from resumable.loading.loop_passes import LoopPasses
from resumable.protocols import Ranks

__all__ = ["MovedPass", "passes_of", "prepared"]

L = TypeVar("L")
T = TypeVar("T", default=Any)


def passes_of(framework: str, loader: object, ranks: Ranks, /) -> LoopPasses:
    """The passes of *loader* in loops, if *framework* can train with it as one of *ranks*.

    Raises:
        ConfigurationError: if it is no resumable loader, loads another rank's part, is already prepared, or has batches
            whose number only drawing them shows.
    """
    passes: object = getattr(loader, "_resumable_pass", None)
    if not isinstance(passes, LoopPasses):
        raise ConfigurationError(
            "Only a resumable loader can be prepared here.",
            [("got", type(loader).__name__)],
            "Pass a ResumableLoader, or the train loader of a datamodule that is decorated with @resumable. Give any other "
            f"loader to {framework} itself.",
        )
    if passes.prepared_for is not None:
        raise ConfigurationError(
            "This loader is prepared already.",
            [("for", passes.prepared_for), ("now for", framework)],
            "Prepare a loader once, for the framework whose loop trains with it, and make another one for another loop.",
        )
    shard = passes.progress.feed.shard
    part, wanted = (shard.rank, shard.size), (ranks.data_parallel_rank, ranks.data_parallel_size)
    if part != wanted:
        raise ConfigurationError(
            f"The loader and {framework} disagree about which part of the data this process loads.",
            [("rank and size of the loader", part), (f"rank and size of {framework}", wanted)],
            f"Give the loader ranks=resumable.adapters.{framework}.Ranks(...).",
        )
    if passes.progress.feed.plan.is_drawn:
        raise ConfigurationError(
            f"{framework} must know which batch of an epoch is the last, and only drawing these batches shows it.",
            [("order", passes.progress.feed.identity.kind)],
            "Use batches of one size: a ResumableLoader with batch_size= and your sampler's order.",
        )
    return passes


def prepared(
    loader: L,
    passes: LoopPasses,
    framework: str,
    follow: Callable[[Counted[Any]], Iterator[Any]],
    /,
    **marks: Any,
) -> L:
    """The same *loader*, whose passes in loops are what *follow* makes of them, with *marks* as its attributes."""
    vars(passes).update(prepared_for=framework, follow=follow, marks=marks)
    vars(loader).update(marks)
    return loader


class MovedPass(Iterator[T], Generic[T]):
    """The batches of a pass, each *moved* when the loop asks for it: nothing is read ahead. It goes on after an error."""

    def __init__(self, batches: Counted[T], moved: Callable[[T], T]) -> None:
        self.batches = batches
        self.moved = moved

    def __next__(self) -> T:
        return self.moved(next(self.batches))
