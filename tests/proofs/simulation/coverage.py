"""What of the possible the chains have met: counted by name, added up over processes, shown as a table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.proofs.simulation.chains import Chain, Session

if TYPE_CHECKING:
    from tests.proofs.simulation.log import Checkpoint, Log
    from tests.proofs.simulation.loop import Loop

__all__ = ["covered", "killed", "table"]

_FIRST: Final = (
    "chains",
    "chains that failed",
    "sessions",
    "kills",
    "resumes",
    "restarts before the first save",
    "resizes",
    "steps trained",
    "steps taken back by kills",
    "samples trained",
    "samples compared",
    "runs compared with the global order",
    "samples lost",
    "samples repeated",
    "samples out of order",
)
_TAILS: Final = {False: "drop_last=False", True: "drop_last=True", "carry": 'drop_last="carry"'}


def covered(tally: Counter[str], chain: Chain, session: Session, before: Session | None, saved: Checkpoint) -> None:
    """Count what *session* of *chain* is, which loads *saved*, and what it changes of the one *before*."""
    setup, sizes = session.setup, session.setup.sizes
    if before is None:
        tally[f"length: {_bucket(chain.length)}"] += 1
        tally[f"order: {'shuffled' if chain.shuffle else 'sequential'}"] += 1
    tally["sessions"] += 1
    tally[f"ranks: {_bucket(setup.data_parallel_size)}"] += 1
    tally[f"tail: {_TAILS[setup.drop_last]}"] += 1
    kind = "none" if sizes is None else sizes.kind + (", rounded down" if sizes.rounds_down else "")
    tally[f"schedule: {kind}"] += 1
    commits = session.commits or saved.commits
    tally[f"accumulation: {'by the schedule' if sizes else setup.accumulation if commits else 1}"] += 1
    tally[f"drawn ahead: {_bucket(setup.num_workers * setup.prefetch_factor)}"] += 1
    everyone = len(session.ranks) == setup.data_parallel_size
    tally[f"{'all' if everyone else 'some'} ranks played of: {_bucket(setup.data_parallel_size)}"] += 1
    tally[f"loop: {'commits' if commits else 'counts what is yielded'}"] += 1
    tally["loop: looked at a batch first"] += session.peeks
    tally["loop: failed and went on in the process"] += session.fails_before is not None and (
        session.fails_before < session.steps
    )
    if before is None:
        return
    tally["restarts before the first save" if saved.text is None else "resumes"] += 1
    then = before.setup
    for what, changed in {
        "number of ranks": then.data_parallel_size != setup.data_parallel_size,
        "micro batch": then.micro_batch_size != setup.micro_batch_size,
        "accumulation": then.accumulation != setup.accumulation,
        "workers' prefetching": (then.num_workers, then.prefetch_factor) != (setup.num_workers, setup.prefetch_factor),
        "schedule": then.sizes != setup.sizes,
        "tail": then.drop_last != setup.drop_last,
        "nothing": then == setup,
    }.items():
        tally[f"changed: {what}"] += changed
    tally["resizes"] += then.data_parallel_size != setup.data_parallel_size


def killed(tally: Counter[str], loop: Loop, log: Log) -> None:
    """Count the kill of *loop*, and what was behind its last save."""
    tally["kills"] += 1
    unsaved = len(log.entries) - loop.saved.entries
    if loop.saved.text is None:
        where = "before the first save"
    elif loop.uncommitted:
        where = "inside a step, its batches yielded"
    elif unsaved:
        where = "behind steps that nothing has saved"
    else:
        where = "right behind a save"
    tally[f"killed: {where}"] += 1
    tally["steps taken back by kills"] += len(log.ends) - 1 - loop.saved.steps


def table(tally: Counter[str], /) -> str:
    """*tally* as aligned lines: the counts, and then each kind of thing that was met.

    >>> print(table(Counter({"chains": 1200, "tail: drop_last=True": 7, "tail: drop_last=False": 20})))
    chains  1,200
    <BLANKLINE>
    tail
      drop_last=False  20
      drop_last=True    7
    """
    kinds: dict[str, list[tuple[str, int]]] = {}
    for name, number in tally.items():
        kind, colon, what = name.partition(": ")
        kinds.setdefault(kind if colon else "", []).append((what if colon else kind, number))
    parts = [_aligned(sorted(kinds.pop("", []), key=lambda row: _FIRST.index(row[0])), "")]
    parts += [f"{kind}\n{_aligned(sorted(rows, key=_by_size), '  ')}" for kind, rows in sorted(kinds.items())]
    return "\n\n".join(parts)


def _aligned(rows: list[tuple[str, int]], indent: str) -> str:
    names, numbers = max(len(name) for name, _ in rows), max(len(f"{number:,}") for _, number in rows)
    return "\n".join(f"{indent}{name:<{names}}  {number:>{numbers},}" for name, number in rows)


def _by_size(row: tuple[str, int]) -> tuple[int, str]:
    first = row[0].split(" ")[0].replace(",", "")
    return (int(first), "") if first.isdigit() else (0, row[0])


def _bucket(number: int) -> str:
    """The numbers that *number* is counted with: themselves up to 2, then between powers of 8 or 1000."""
    if number < 3:
        return str(number)
    least, most = 3, 8
    while number > most:
        least, most = most + 1, most * (8 if most < 4096 else 1024)
    return f"{least:,} to {most:,}"
