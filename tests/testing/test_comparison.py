"""One word for what became of a run, and where it differs first."""

from __future__ import annotations

import pytest

from resumable.testing.comparison import Outcome, compare, compare_resized
from resumable.testing.sessions import Step


def steps(*texts: str) -> list[Step]:
    """Steps as text: `0: 12 34` is a step of epoch 0 with two micro batches."""
    parted = [text.split(": ") for text in texts]
    return [Step(int(epoch), tuple(tuple(batch) for batch in batches.split())) for epoch, batches in parted]


WHOLE = ("0: 12", "0: 34", "1: 42", "1: 13")


@pytest.mark.parametrize(
    ("actual", "outcome", "step", "repeated", "lost"),
    [
        pytest.param(["0: 12", "0: 43", *WHOLE[2:]], "reordered", 2, 0, 0, id="within a step"),
        pytest.param(["0: 12", "0: 34", "1: 12", "1: 34"], "reordered", 3, 0, 0, id="another epoch's order"),
        pytest.param(["0: 12", "0: 3", "0: 4", *WHOLE[2:]], "regrouped", 2, 0, 0, id="other steps"),
        pytest.param(["0: 12", "0: 3 4", *WHOLE[2:]], "regrouped", 2, 0, 0, id="other micro batches"),
        pytest.param(["0: 12", "0: 12", "0: 34", *WHOLE[2:]], "repeated", 2, 2, 0, id="a step twice"),
        pytest.param(["0: 12", *WHOLE[2:]], "lost", 2, 0, 2, id="a step left out"),
        pytest.param(WHOLE[:2], "lost", 3, 0, 4, id="an epoch left out"),
        pytest.param([*WHOLE, "2: 12"], "repeated", 5, 2, 0, id="a step too many"),
        pytest.param(["0: 12", "0: 14", *WHOLE[2:]], "repeated", 2, 1, 1, id="one for another"),
        pytest.param(["0: 12", "0: 3x", *WHOLE[2:]], "changed", 2, 1, 1, id="never seen"),
        pytest.param(["0: 12", "0: 34", "1: 34", "1: 13"], "repeated", 3, 1, 1, id="in its own epoch"),
        pytest.param([], "lost", 1, 0, 8, id="nothing"),
    ],
)
def test_each_difference_has_its_word(actual: list[str], outcome: Outcome, step: int, repeated: int, lost: int) -> None:
    """Outcome, first step and numbers; the same in equal runs is no difference."""
    assert compare(steps(*WHOLE), steps(*WHOLE)) is None
    found = compare(steps(*WHOLE), steps(*actual))
    assert found is not None
    assert (outcome, step, repeated, lost) == (found.outcome, found.step, found.repeated, found.lost)


TWO = steps("0: 1234", "0: 56", "1: 6543", "1: 21")
ONE = steps("0: 123", "0: 456", "1: 654", "1: 321")


@pytest.mark.parametrize(
    ("actual", "outcome"),
    [
        pytest.param(["0: 1234", "0: 56", "1: 654", "1: 321"], None, id="exact"),
        pytest.param(["0: 1234", "0: 5", "0: 6", "1: 654", "1: 321"], None, id="other steps of the turn"),
        pytest.param(["0: 1234", "0: 65", "1: 654", "1: 321"], "reordered", id="reordered"),
        pytest.param(["0: 1234", "0: 456", "1: 654", "1: 321"], "repeated", id="repeated"),
        pytest.param(["0: 1234", "1: 654", "1: 321"], "lost", id="lost"),
        pytest.param(["0: 1234", "0: 56", "1: 123", "1: 456"], "reordered", id="another order"),
    ],
)
def test_resized_runs_agree_in_their_order(actual: list[str], outcome: Outcome | None) -> None:
    """Steps may hold other samples, and the order of the samples is the same."""
    found = compare_resized(TWO, ONE, steps(*actual), 1, ranks=1)
    assert outcome == (found.outcome if found else None)


def test_ranks_may_deal_out_a_step() -> None:
    """On several ranks, what is trained up to the same count is compared."""
    dealt, whole = steps("0: 13 24", "0: 57 68"), steps("0: 12", "0: 34", "0: 56", "0: 78")
    assert compare_resized(dealt, whole, steps("0: 13 24", "0: 56", "0: 78"), 1, ranks=2) is None
    found = compare_resized(dealt, whole, steps("0: 13 24", "0: 16", "0: 78"), 1, ranks=2)
    assert found is not None
    assert ("repeated", 2) == (found.outcome, found.step)


def test_padding_may_differ() -> None:
    """What the end of an epoch trains a second time, for ranks that would have too little, is left out."""
    padded, whole = steps("0: 12 34", "0: 51 23", "1: 12 34"), steps("0: 12", "0: 34", "0: 5", "1: 12", "1: 34")
    assert compare_resized(padded, whole, steps("0: 12 34", "0: 5", "1: 12", "1: 34"), 1, ranks=2) is None


def test_a_dropped_tail_may_differ() -> None:
    """The epoch of the turn ends as it does in either sizes."""
    short, long = steps("0: 1234", "1: 1234"), steps("0: 123", "0: 456", "1: 123", "1: 456")
    assert compare_resized(short, long, steps("0: 1234", "1: 123", "1: 456"), 1, ranks=1) is None
    assert compare_resized(short, long, steps("0: 1234", "1: 1234"), 1, ranks=1) is not None  # its own epochs are whole
    two, three = steps("0: 12", "0: 34", "0: 56", "0: 78", "0: 9a"), steps("0: 123", "0: 456", "0: 789")
    assert compare_resized(two, three, steps("0: 12", "0: 345", "0: 678"), 1, ranks=1) is None  # two are left of ten
    found = compare_resized(two, three, steps("0: 12", "0: 345"), 1, ranks=1)
    assert found is not None
    assert "lost" == found.outcome
