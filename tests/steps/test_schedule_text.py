"""Megatron's text of a step schedule, read and written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resumable.errors import ConfigurationError
from resumable.steps.schedules import StepSchedule
from tests.support.schedules import step_schedules

# Megatron's text.


@pytest.mark.parametrize(
    ("text", "seq_length", "expected"),
    [
        ("0:768 250B:1536 500B:3072", 4096, ((0, 768), (61035156, 1536), (122070312, 3072))),
        ("0:768,250B:1536,  500b:3072\n", None, ((0, 768), (250 * 10**9, 1536), (500 * 10**9, 3072))),
        ("500:3 0:1 20:2", None, ((0, 1), (20, 2), (500, 3))),
        ("0:1 1K:2 1M:3 1B:4 1T:5", None, ((0, 1), (10**3, 2), (10**6, 3), (10**9, 4), (10**12, 5))),
        ("0:0.5K 1.2345k:1e3", None, ((0, 500), (1234, 1000))),
        ("0:1 4095:2 4096:3", 2048, ((0, 1), (1, 2), (2, 3))),
        ("0:1 1.001K:2 9007199254740993:3", None, ((0, 1), (1000, 2), (2**53, 3))),
    ],
)
def test_texts_are_read_as_megatron_reads_them(text: str, seq_length: int | None, expected: object) -> None:
    """Entries are sorted, suffixes are powers of 1000, products of doubles are cut off, tokens floored to samples."""
    assert expected == StepSchedule.parse(text, seq_length).steps


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", r"at least one step.*\[\]"),
        (" , ", r"at least one step"),
        ("768", r"no colon.*'768'"),
        ("0:768 250X:1536", r"cannot be read.*'250X:1536'.*'250X'"),
        ("0:768 250B:", r"cannot be read.*'250B:'.*''"),
        ("0:768 5:6:7", r"cannot be read.*'5:6:7'.*'6:7'"),
        ("0:768 inf:8", r"cannot be read.*'inf:8'.*'inf'"),
        ("10K:768 20K:8", r"first threshold.*'10K:768'.*10000"),
        ("-5:768 0:8", r"first threshold.*'-5:768'"),
        ("0:768 1M:0", r"at least one sample.*'1M:0'"),
        ("0:768 1M:-2", r"at least one sample.*'1M:-2'"),
        ("0:768 1K:8 1000:9", r"must increase.*'1K:8'.*'1000:9'.*\(1000, 1000\)"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_part(text: str, named: str) -> None:
    """The message shows the entry as it was written."""
    with pytest.raises(ConfigurationError, match=f"(?s){named}"):
        StepSchedule.parse(text)


def test_thresholds_that_tokens_floor_to_one_sample_are_refused() -> None:
    """The message shows the entries, and the samples that they fall on."""
    with pytest.raises(ConfigurationError, match=r"(?s)must increase.*'8200:2'.*'9K:3'.*\(2, 2\)"):
        StepSchedule.parse("0:1 8200:2 9K:3", seq_length=4096)


@given(step_schedules(longest=2**52), st.none() | st.integers(1, 2**14))
@example(StepSchedule(((0, 1), (2**53, 2), (2**53 + 2, 3))), None)
@example(StepSchedule(((0, 1), (10**15 + 1, 2))), 4095)
def test_a_schedule_survives_its_text(schedule: StepSchedule, seq_length: int | None) -> None:
    """What is written is read as the same schedule, with and without a sequence length, and from `str`."""
    assert schedule == StepSchedule.parse(schedule.to_string(seq_length), seq_length)
    assert schedule == StepSchedule.parse(str(schedule))


def test_texts_are_short_where_numbers_are_round() -> None:
    """A threshold gets the largest suffix that says it, zero none, and `str` has all digits."""
    schedule = StepSchedule.parse("0:768 250B:1536 1T:3000 1500B:6144", 4096)
    assert "0:768 250B:1536 1T:3000 1500B:6144" == schedule.to_string(4096)
    assert "0:768 61035156:1536 244140625:3000 366210937:6144" == str(schedule) == schedule.to_string()


@pytest.mark.parametrize("steps", [((0, 1), (2**53 + 1, 2)), ((0, 2**53 + 1),)])
def test_a_number_that_is_no_double_has_no_text(steps: tuple[tuple[int, int], ...]) -> None:
    """Megatron would read another one, and no message would tell."""
    with pytest.raises(ConfigurationError, match=r"(?s)as doubles.*9007199254740993"):
        StepSchedule(steps).to_string()
