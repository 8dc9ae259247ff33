"""Whether all ranks of a run have the same state: each sends a short record, and the error names those that differ.

    rank 0   {"consumed_samples": 128, "epoch": 1, "offset": 28, ...}   ─┐
    rank 1   {"consumed_samples": 128, "epoch": 1, "offset": 28, ...}    ├─ all-gather ──► AgreementError on every rank
    rank 2   {"consumed_samples": 124, "epoch": 1, "offset": 24, ...}   ─┘

A rank that fails sends its error, so that the others do not wait for it in their next collective.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from resumable.errors import AgreementError
from resumable.protocols import AllGather

__all__ = ["RECORD_BYTES", "agreed", "check_agreement", "record_of"]

RECORD_BYTES: Final = 512
"""The length of every record: a collective takes the same number of bytes from each rank."""

_SAID: Final = ("consumed_samples", "epoch", "offset", "global_step", "canary")


def record_of(state: Mapping[str, Any], /) -> bytes:
    """A rank's record of its *state*: the position and the order in words, and a digest of the whole.

    >>> record_of({"consumed_samples": 8})[:43]
    b'{"consumed_samples": 8, "all": "e8f4d73c"} '
    """
    said: dict[str, Any] = {key: state[key] for key in _SAID if state.get(key) is not None}
    order = state.get("order")
    if order is not None:
        kind, length, seed = order
        said |= {"order": _short(kind), "length": length, "seed": seed}
    # an iterable dataset's own state differs from rank to rank
    places = [place[:-1] for place in state.get("loaders", [])]
    whole = json.dumps({**state, "loaders": places}, sort_keys=True)
    return _padded(said | {"all": f"{crc32(whole.encode()):08x}"})


def _short(text: str) -> str:
    """*text*, cut to fit into a record however JSON writes it."""
    return text[:80].encode("ascii", "replace").decode()


def _padded(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode("ascii").ljust(RECORD_BYTES)[:RECORD_BYTES]


def agreed(
    all_gather: AllGather,
    state_dict: Callable[[], dict[str, Any]],
    work: Callable[[], object] = lambda: None,
    /,
    *,
    undo: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Do *work*; the state that every rank then has.

    Raises:
        AgreementError: on every rank whose *work* succeeds, after *undo*; the others raise their own error.
    """
    try:
        work()
        state = state_dict()
        record = record_of(state)
    except Exception as error:
        said = {"failed": type(error).__name__, "with": _short(str(error).partition("\n")[0])}
        all_gather(_padded(said))
        raise
    try:
        check_agreement(all_gather(record))
    except AgreementError:
        undo()
        raise
    return state


def check_agreement(records: Sequence[bytes], /) -> None:
    """Raise unless all *records*, that of rank 0 first, are the same.

    >>> check_agreement([record_of({"consumed_samples": 8}), record_of({"consumed_samples": 12})])
    Traceback (most recent call last):
    resumable.errors.AgreementError: The ranks disagree on the position of the run.
      rank 0: 'consumed_samples=8'
      rank 1: 'consumed_samples=12'
    ...
    """
    groups: dict[bytes, list[int]] = {}
    for rank, record in enumerate(records):
        groups.setdefault(bytes(record), []).append(rank)
    if len(groups) == 1:
        return
    raise AgreementError(
        "The ranks disagree on the position of the run.",
        [(_ranks(ranks), _in_words(record, list(groups))) for record, ranks in groups.items()],
        "Load the same checkpoint on every rank, with the same dataset, seed and configuration, and save after the "
        "same step.",
    )


def _ranks(ranks: Sequence[int], most: int = 8) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    rest = f" and {len(ranks) - most} more" if len(ranks) > most else ""
    return f"ranks {', '.join(map(str, ranks[:most]))}{rest}"


def _in_words(record: bytes, records: Sequence[bytes]) -> str:
    """*record* as text, with the digest only where nothing else distinguishes it from another record."""
    said = json.loads(record)
    others = [json.loads(other) for other in records if other != record]
    is_distinct = all({**other, "all": None} != {**said, "all": None} for other in others)
    return " ".join(f"{key}={value}" for key, value in said.items() if key != "all" or not is_distinct)
