"""Step schedules as text, as newer Megatron-LM writes them: "0:768 250B:1536 500B:3072".

    schedule = entry { (space | comma) entry }
    entry    = number ":" number              threshold, from which it holds : global batch size
    number   = decimal [ K | M | B | T ]      times 1e3, 1e6, 1e9, 1e12, in small letters too; the product is
                                              truncated to a whole number
    unit     samples; with a sequence length the thresholds are tokens, divided by it and floored to samples

Entries may come in any order. Here as there each number is read as a double: above 2**53, as the nearest one.

Source: NVIDIA/Megatron-LM, pull request 4411 (merged in April 2026, after megatron-core 0.16.1),
`StepBatchsizeNumMicroBatchesCalculator` in megatron/core/num_microbatches_calculator.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from resumable.checks import whole_number
from resumable.errors import ConfigurationError

__all__ = ["check_steps", "read_steps", "write_steps"]

_UNITS: Final = {"T": 10**12, "B": 10**9, "M": 10**6, "K": 10**3}
_EXAMPLE: Final = 'Write it like "0:768 250B:1536 500B:3072": thresholds and batch sizes with K, M, B, T or none.'


def read_steps(text: str, seq_length: int | None = None) -> tuple[tuple[int, int], ...]:
    """The pairs (threshold in samples, batch size) of *text*, by increasing threshold.

    *seq_length* >= 1 is the tokens of a sample; None means that the thresholds are samples. Raises ConfigurationError
    with the wrong part.

    >>> read_steps("0:768, 250B:1.5k", seq_length=4096)
    ((0, 768), (61035156, 1500))
    """
    length = _length(seq_length)
    entries = text.replace(",", " ").split()
    read = sorted(((_read(entry, length), entry) for entry in entries), key=lambda step: step[0][0])
    steps = tuple(step for step, _ in read)
    check_steps(steps, [entry for _, entry in read])
    return steps


def check_steps(steps: Sequence[tuple[int, int]], parts: Sequence[object]) -> None:
    """Refuse *steps* that make no schedule; the error shows the wrong one of *parts*, the steps as the user wrote them.

    >>> check_steps([(0, 8), (20, 16)], ["0:8", "20:16"])
    """
    if not steps:
        raise ConfigurationError("A step schedule needs at least one step.", [("steps", parts)], _EXAMPLE)
    if steps[0][0] != 0:
        raise ConfigurationError(
            "The first threshold of a step schedule must be 0.",
            [("first step", parts[0]), ("threshold in samples", steps[0][0])],
            "Add a step that begins at 0.",
        )
    for at, (threshold, size) in enumerate(steps):
        if size < 1:
            raise ConfigurationError(
                "A batch needs at least one sample.",
                [("step", parts[at]), ("batch size", size)],
                "Pass batch sizes >= 1.",
            )
        if at and threshold <= steps[at - 1][0]:
            raise ConfigurationError(
                "The thresholds of a step schedule must increase.",
                [
                    ("step", parts[at - 1]),
                    ("next step", parts[at]),
                    ("thresholds in samples", (steps[at - 1][0], threshold)),
                ],
                "Begin each step at a later sample than the one before it.",
            )


def write_steps(steps: Sequence[tuple[int, int]], seq_length: int | None = None) -> str:
    """*steps* as text, each threshold with the largest suffix that gives it.

    With *seq_length* a threshold is written as a number of tokens that is floored to it. Raises ConfigurationError for a
    step that no text gives.

    >>> write_steps([(0, 768), (61035156, 1536)], seq_length=4096)
    '0:768 250B:1536'
    """
    length = _length(seq_length)
    return " ".join(_written(threshold, size, length) for threshold, size in steps)


def _length(seq_length: int | None) -> int:
    return 1 if seq_length is None else whole_number("seq_length", seq_length, least=1)


def _read(entry: str, length: int) -> tuple[int, int]:
    threshold, colon, size = entry.partition(":")
    if not colon:
        raise _unreadable("An entry of a step schedule has no colon.", entry, entry)
    return _number(threshold, entry) // length, _number(size, entry)


def _number(text: str, entry: str) -> int:
    unit = _UNITS.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * unit if unit else float(text))
    except (ValueError, OverflowError):
        raise _unreadable("A step schedule has a number that cannot be read.", entry, text) from None


def _unreadable(what: str, entry: str, part: str) -> ConfigurationError:
    return ConfigurationError(what, [("entry", entry), ("part", part)], _EXAMPLE)


def _written(threshold: int, size: int, length: int) -> str:
    first, after = threshold * length, (threshold + 1) * length
    # the last choice is the next double, where the exact number of tokens is not one
    for suffix, unit in (*_UNITS.items(), ("", 1), ("", 1 << max(0, first.bit_length() - 53))):
        count = -(-first // unit)
        text = f"{count}{suffix}:{size}" if suffix and count else f"{count * unit}:{size}"
        if count * unit < after and _read(text, length) == (threshold, size):
            return text
    raise ConfigurationError(
        "Megatron-LM reads numbers as doubles, and none gives this step.",
        [("threshold in samples", threshold), ("batch size", size), ("tokens for each sample", length)],
        "Begin the step at another sample, or use another batch size. Up to 2**52 every number can be written.",
    )
