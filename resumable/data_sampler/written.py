"""What a load writes into a data sampler, and how that is taken back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

__all__ = ["ATTRIBUTES", "unchanged_on_error", "undo_of_load"]

ATTRIBUTES: Final = ("init_global_step", "init_consumed_samples", "prev_consumed_samples", "if_first_step")


@contextmanager
def unchanged_on_error(sampler: object) -> Generator[None, None, None]:
    """Give *sampler* back what a load has written, if an error comes out of the block."""
    undo = undo_of_load(sampler)
    try:
        yield
    except BaseException:
        undo()
        raise


def undo_of_load(sampler: object) -> Callable[[], None]:
    """What gives *sampler* back the values that it has now where a load writes."""
    before = {name: getattr(sampler, name) for name in ATTRIBUTES if hasattr(sampler, name)}

    def undo() -> None:
        for name, value in before.items():
            setattr(sampler, name, value)

    return undo
