"""Whether all ranks of a run have the same state: each sends a short record, and the error names those that differ.

    rank 0   {"consumed_samples": 128, "epoch": 1, "offset": 28, ...}   ─┐
    rank 1   {"consumed_samples": 128, "epoch": 1, "offset": 28, ...}    ├─ all-gather ──► AgreementError on every rank
    rank 2   {"consumed_samples": 124, "epoch": 1, "offset": 24, ...}   ─┘

A rank that fails sends its error, so that the others do not wait for it in their next collective.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from resumable.errors import AgreementError
from resumable.protocols import AllGather

__all__ = ["RECORD_BYTES", "Part", "agreed", "check_agreement", "record_of"]

RECORD_BYTES: Final = 512
"""The length of every record: a collective takes the same number of bytes from each rank."""

_SAID: Final = ("consumed_samples", "epoch", "offset", "global_step")
_MOST: Final = 8  # ranks that a message names
_PART: Final = b', "part": '


class Part(NamedTuple):
    """Which part of the data a process loads. With *is_own*, no other process loads it too, as model-parallel ones do."""

    rank: int
    size: int
    is_own: bool


def record_of(state: Mapping[str, Any], part: Part | None = None, /) -> bytes:
    """A rank's record of its *state*, the position and the order in words and a digest of the whole, and of its *part*.

    >>> record_of({"consumed_samples": 8})[:43]
    b'{"consumed_samples": 8, "all": "e8f4d73c"} '
    """
    said: dict[str, Any] = {key: state[key] for key in _SAID if state.get(key) is not None}
    if state.get("canary") is not None:
        said["canary"] = _short(state["canary"])
    order = state.get("order")
    if order is not None:
        kind, length, seed = order
        said |= {"order": _short(kind), "length": length, "seed": seed}
    # an iterable dataset's own state differs from rank to rank
    places = [place[:-1] for place in state.get("loaders", [])]
    whole = json.dumps({**state, "loaders": places}, sort_keys=True)
    said["all"] = f"{crc32(whole.encode()):08x}"
    shares = {} if part is None else {"part": part}
    record = _padded(said | shares)
    return record if len(record) <= RECORD_BYTES else _padded({"all": said["all"]} | shares)


def _short(text: str, longest: int = 80) -> str:
    """The beginning of *text*, of characters that JSON writes as one byte or two."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:longest])


def _padded(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode("ascii").ljust(RECORD_BYTES)


def agreed(
    all_gather: AllGather,
    outcome: Callable[[], tuple[dict[str, Any], Part | None]],
    work: Callable[[], object] = lambda: None,
    /,
    *,
    undo: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Do *work*; the state that every rank then has. *outcome* gives it, and this rank's part of the data.

    Raises:
        AgreementError: on every rank whose *work* succeeds, after *undo*; the others raise their own error.
    """
    is_done = False
    try:
        work()
        is_done = True
        state, part = outcome()
        record = record_of(state, part)
    except Exception as error:
        if is_done:
            undo()
        said = {"failed": _short(type(error).__name__), "with": _short(str(error).partition("\n")[0])}
        all_gather(_padded(said))
        raise
    try:
        check_agreement(all_gather(record))
    except BaseException:
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
    groups, parts = dict[bytes, list[int]](), list[Part]()
    for rank, record in enumerate(records):
        said, part = _taken_apart(bytes(record))
        groups.setdefault(said, []).append(rank)
        parts += [] if part is None else [part]
    if len(groups) > 1:
        raise AgreementError(
            "The ranks disagree on the position of the run.",
            [(_ranks(ranks), _in_words(said, list(groups))) for said, ranks in groups.items()],
            "Load the same checkpoint on every rank, with the same dataset, seed and configuration, and save after the "
            "same step.",
        )
    if len(parts) == len(records):
        _check_parts(parts)


def _check_parts(parts: Sequence[Part]) -> None:
    """Raise unless the processes load all parts of the data, and none of them more often than another."""
    size, times = parts[0].size, Counter(part.rank for part in parts)
    are_all = set(times) == set(range(size)) and len(set(times.values())) == 1
    if any(part.is_own for part in parts):
        is_right = are_all and len(parts) == size
    else:  # some of the ranks may ask each other, too
        is_right = are_all or len(parts) < size
    if is_right and all(part.size == size for part in parts):
        return
    rows = [
        (f"process {at}", f"data_parallel_rank={part.rank} data_parallel_size={part.size}")
        for at, part in enumerate(parts)
    ]
    raise AgreementError(
        "The processes do not share out the data: parts of it would be trained twice, or never.",
        [("processes", len(parts)), *rows[:_MOST]],
        "Give each its own data_parallel_rank, and all of them their number, or pass ranks=. Where model-parallel "
        "processes load the same part, pass ranks=, or an agreement= of the data-parallel ones alone.",
    )


def _taken_apart(record: bytes) -> tuple[bytes, Part | None]:
    """What a rank says of its state, all but the closing brace, and of its part."""
    whole = record.rstrip().removesuffix(b"}")
    said, _, part = whole.partition(_PART)
    try:
        return said, Part(*json.loads(part)) if part else None
    except (ValueError, TypeError):  # not a record of ours
        return whole, None


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    rest = f" and {len(ranks) - _MOST} more" if len(ranks) > _MOST else ""
    return f"ranks {', '.join(map(str, ranks[:_MOST]))}{rest}"


def _in_words(said: bytes, everything: Sequence[bytes]) -> str:
    """What a rank *said* as text, with the digest only where nothing else distinguishes it from another rank's."""
    mine, others = _read(said), [_read(other) for other in everything if other != said]
    is_distinct = all({**other, "all": None} != {**mine, "all": None} for other in others)
    return " ".join(f"{key}={value}" for key, value in mine.items() if key != "all" or not is_distinct)


def _read(said: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(said + b"}"))
    except (ValueError, TypeError):  # of another version, or torn on its way
        return {"said": said[:80]}
