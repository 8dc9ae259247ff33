"""What streams do with a state that they have loaded: it is the start of one pass, and it may lie."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from resumable import DecorationError, MismatchError, ResumptionWarning, resumable
from tests.support.cuts import Cut, also_with_workers, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import PlainNumbers, Scenario, check, numbers, resumed, run_of, train, uninterrupted
from tests.support.samplers import SET_VITAL
from tests.support.streams import (
    Buffered,
    CountedByItsCaller,
    DrawsAndSaves,
    DrawsFromAPlace,
    Endless,
    EndsItsRestoreAtItsEnd,
    FollowsItsEpoch,
    GivesOneDict,
    KeepsItsStart,
    RemembersItsPasses,
    SavesNothingYet,
    SavesTensors,
    SizedEndsItsRestoreAtItsEnd,
    SizedKeepsItsStart,
    Stream,
    ToldItsEpoch,
    streaming,
)

CUTS = [
    (saved_after_step(1),),
    (saved_after_step(3),),
    (saved_at_epoch_end(0),),
    (raised_in("training_step", (1, 0)),),
    (raised_in("training_step", (1, 1)), raised_in("training_step", (1, 3))),
]
LIMITS: list[dict[str, Any]] = [{}, {"limit_train_batches": 4}]
every_cut = pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts)))
reading_again = pytest.mark.filterwarnings("ignore:This resume reads the stream again")
pytestmark = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`", SET_VITAL)


@resumable(streams="read_again")
class ReadAgain(PlainNumbers):
    """The datamodule of a scenario, whose streams are read again."""


@pytest.mark.parametrize(
    "cls",
    [
        KeepsItsStart,
        SizedKeepsItsStart,
        FollowsItsEpoch,
        EndsItsRestoreAtItsEnd,
        SizedEndsItsRestoreAtItsEnd,
        GivesOneDict,
        SavesTensors,
        Endless,
    ],
)
@pytest.mark.parametrize("limit", LIMITS, ids=str)
@every_cut
def test_a_loaded_state_is_the_start_of_one_pass(
    cuts: tuple[Cut, ...], limit: dict[str, Any], cls: type[Stream]
) -> None:
    """Behind a resume every later epoch is a whole one, whatever the stream does with what it has loaded."""
    if cls is Endless and not limit:
        pytest.skip("an epoch of it has no end")
    check(streaming(cls, trainer=limit), *cuts)


@reading_again
@pytest.mark.slow
@pytest.mark.parametrize("cls", [KeepsItsStart, FollowsItsEpoch, EndsItsRestoreAtItsEnd])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("cuts", [CUTS[1], CUTS[3], CUTS[4]], ids=str)
def test_a_loaded_state_is_the_start_of_one_pass_in_workers(
    cuts: tuple[Cut, ...], persistent: bool, cls: type[Stream]
) -> None:
    """The same where copies of the stream are in workers, those that stay included."""
    check(streaming(cls, 2, loader=partial(DataLoader, persistent_workers=persistent)), *cuts)


class OwnLoader(DataLoader[int]):
    """A loader that saves its own state, and ends a restore only where a pass is asked past its end."""

    restored = False
    given = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.restored = False

    def __iter__(self) -> Any:
        if not self.restored:
            self.given = 0
        batches = super().__iter__()
        for _ in range(self.given):
            next(batches)
        for batch in batches:
            self.given += 1
            yield batch
        self.restored = False

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given, self.restored = state["given"], True


class SizedStream(Stream):
    """A stream with a length."""

    def __len__(self) -> int:
        return self.samples


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@also_with_workers
@every_cut
def test_loaders_with_a_state_of_their_own(cuts: tuple[Cut, ...], limit: dict[str, Any], num_workers: int) -> None:
    """The same where the loader is what saves and loads, in the main process whatever its workers do."""
    check(streaming(SizedStream, num_workers, loader=OwnLoader, trainer=limit), *cuts)


@reading_again
@pytest.mark.parametrize("cls", [CountedByItsCaller, SavesNothingYet])
@pytest.mark.parametrize("cuts", CUTS[1:4], ids=str)
def test_states_that_cannot_be_asked_for(cuts: tuple[Cut, ...], cls: type[Stream]) -> None:
    """A stream whose `state_dict` needs arguments, or is not written, is read again."""
    check(streaming(cls), *cuts)


# States that lie, and streams that are not the same.


@pytest.mark.parametrize("cut", [saved_after_step(2), saved_after_step(3), raised_in("training_step", (1, 2))], ids=str)
def test_a_state_that_leaves_something_out_is_said(cut: Cut) -> None:
    """A resume that is not exact, for its state leaves out a shuffle buffer, says so once."""
    with pytest.warns(ResumptionWarning) as warned:
        run = resumed(streaming(Buffered), cut)
    said = [str(each.message) for each in warned if issubclass(each.category, ResumptionWarning)]
    assert run != uninterrupted(streaming(Buffered))
    assert 1 == len(said)
    assert said[0].startswith("The stream does not go on where its state was saved")
    assert 'streams="read_again"' in said[0]


@pytest.mark.parametrize("cut", [saved_after_step(1), raised_in("training_step", (1, 1))], ids=str)
def test_a_state_behind_a_passes_first_batch(cut: Cut) -> None:
    """Behind the first batch of a pass that batch is all that is read again, so that nothing can be left out."""
    check(streaming(Buffered), cut)


AT_PASSES_STARTS = [
    saved_at_epoch_end(0),
    saved_at_epoch_end(1),
    raised_in("training_step", (1, 0)),
    saved_after_step(7),
]


@pytest.mark.filterwarnings("error::resumable.ResumptionWarning")
@pytest.mark.parametrize("cls", [Buffered, DrawsAndSaves])
@pytest.mark.parametrize("cut", AT_PASSES_STARTS, ids=str)
def test_what_is_empty_between_two_passes(cut: Cut, cls: type[Stream]) -> None:
    """A buffer that a state leaves out is empty where a pass begins, and after its first batch all of it is read again."""
    check(streaming(cls), cut)


@pytest.mark.parametrize("cut", AT_PASSES_STARTS, ids=str)
def test_a_generator_that_a_state_leaves_out_is_said(cut: Cut) -> None:
    """Where the next pass's order follows from a generator that is not saved, a resume says so, after its first batch too."""
    with pytest.warns(ResumptionWarning, match="The stream does not go on where its state was saved") as warned:
        resumed(streaming(DrawsFromAPlace), cut)
    assert 1 == len([each for each in warned if issubclass(each.category, ResumptionWarning)])


@pytest.mark.filterwarnings("error::resumable.ResumptionWarning")
@pytest.mark.parametrize("cls", [Stream, Buffered, KeepsItsStart, ToldItsEpoch, RemembersItsPasses])
@pytest.mark.parametrize("limit", LIMITS, ids=str)
@every_cut
def test_streams_that_are_read_again_on_demand(cuts: tuple[Cut, ...], limit: dict[str, Any], cls: type[Stream]) -> None:
    """`streams="read_again"` is exact for each stream that gives the same again, and has nothing to warn of."""
    check(streaming(cls, trainer=limit, data=ReadAgain), *cuts)


@reading_again
def test_another_stream_is_said() -> None:
    """A stream that gives other samples than were trained is noticed while it is read again."""
    with pytest.warns(ResumptionWarning, match="The stream is not the one that was trained"):
        resumed(streaming(RemembersItsPasses), raised_in("training_step", (1, 2)))


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_stream_that_remembers_its_passes_is_said_at_an_epochs_start(epoch: int) -> None:
    """Where each pass has another order, a resume at an epoch's start begins with the first pass's, and says so once."""
    with pytest.warns(ResumptionWarning) as warned:
        resumed(streaming(RemembersItsPasses, trainer={"max_epochs": 4}), saved_at_epoch_end(epoch))
    said = [str(each.message) for each in warned if issubclass(each.category, ResumptionWarning)]
    assert 1 == len(said)
    assert said[0].startswith("The stream has another order in each pass")


def shortened(cls: type[Stream]) -> Any:
    """The scenario's loader over a stream that has become too short."""

    def loaders(scenario: Scenario) -> Any:
        return scenario.loader(cls(6))

    return loaders


@reading_again
@pytest.mark.parametrize("cls", [Stream, KeepsItsStart])
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 15}], ids=str)
def test_a_stream_that_ends_before_its_position(limit: dict[str, int], cls: type[Stream]) -> None:
    """A stream with fewer batches than were trained is refused before the first step, with both numbers."""
    then = Scenario(shuffle=False, loaders=shortened(cls), trainer=limit)
    with pytest.raises(MismatchError, match=r"batches trained of its epoch: 4\n.*batches that it gave: +[23]"):
        resumed(streaming(cls, trainer=limit), saved_after_step(4), then=then)


@reading_again
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 15}], ids=str)
def test_a_stream_that_ends_at_its_position(limit: dict[str, int]) -> None:
    """A stream with as many batches as were trained has an epoch less, and the next one begins."""

    def loaders(scenario: Scenario) -> Any:
        return scenario.loader(Stream(16))

    then = Scenario(shuffle=False, loaders=loaders, trainer=limit)
    run = resumed(streaming(Stream, trainer=limit), saved_after_step(4), then=then)
    assert [list(range(16))] * 3 == [run.ids(epoch) for epoch in range(3)]


def side_by_side(scenario: Scenario) -> Any:
    """Two streams of unknown length, the second one shorter."""
    return [scenario.loader(Stream(20)), scenario.loader(Stream(12))]


def test_a_shorter_stream_begins_again() -> None:
    """A stream beside a longer one is begun again by Lightning, with its first batch."""
    scenario = Scenario(shuffle=False, loaders=side_by_side)
    plain = run_of(train(replace(scenario, data=PlainNumbers)))
    assert plain == uninterrupted(scenario)


@reading_again
@pytest.mark.parametrize("cut", [saved_after_step(2), raised_in("training_step", (1, 2))], ids=str)
def test_a_shorter_stream_goes_on(cut: Cut) -> None:
    """Before it was begun again, such a stream goes on at its place."""
    check(Scenario(shuffle=False, loaders=side_by_side), cut)


def test_a_shorter_stream_that_was_begun_again() -> None:
    """Lightning cannot go on in an epoch in which it has begun a stream again, so that is refused."""
    with pytest.raises(MismatchError, match="a train loader was begun again"):
        resumed(Scenario(shuffle=False, loaders=side_by_side), saved_after_step(4))


def beside(samples: int, mode: Any, **trainer: Any) -> Scenario:
    """A stream of *samples* samples, which has no length, beside a map-style dataset of 12."""

    def loaders(scenario: Scenario) -> Any:
        return CombinedLoader([scenario.loader(numbers(100, 112)), scenario.loader(Stream(samples))], mode)

    return Scenario(shuffle=False, loaders=loaders, trainer=trainer)


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
@pytest.mark.parametrize("samples", [8, 12, 20])
@pytest.mark.parametrize("limit", [{}, {"limit_train_batches": 4}], ids=str)
def test_beside_a_stream_the_epochs_are_lightnings(samples: int, mode: str, limit: dict[str, int]) -> None:
    """Whichever ends first, the stream or a map-style dataset, each epoch has the batches that it has undecorated."""
    scenario = beside(samples, mode, **limit)
    assert run_of(train(replace(scenario, data=PlainNumbers))) == uninterrupted(scenario)


@reading_again
def test_a_shorter_stream_that_has_ended_is_refused_as_such() -> None:
    """In the mode "max_size" a stream without a length may have ended while the epoch lasts, and the error says so."""
    with pytest.raises(MismatchError, match='Beside a longer loader, in the mode "max_size"'):
        resumed(beside(4, "max_size"), saved_after_step(2))


@reading_again
@pytest.mark.parametrize("samples", [8, 12, 20])
@pytest.mark.parametrize(
    "cuts", [*((saved_after_step(step),) for step in range(1, 6)), (saved_at_epoch_end(0),)], ids=str
)
def test_an_epoch_that_a_stream_ends(samples: int, cuts: tuple[Cut, ...]) -> None:
    """A resume goes on in an epoch whose end is the stream's, also where nothing of it is left."""
    check(beside(samples, "min_size"), *cuts)


def test_a_dataset_that_was_begun_again_beside_a_stream() -> None:
    """Nor can Lightning go on where it has begun a map-style dataset again: which ends the epoch is unknown."""
    with pytest.raises(MismatchError, match="a train loader was begun again"):
        resumed(beside(20, "max_size_cycle"), saved_after_step(4))


def test_the_same_stream_in_a_second_fit() -> None:
    """A stream that one datamodule keeps for all its fits is set back to what it saved before its first pass."""
    stream = KeepsItsStart(22)
    scenario = Scenario(shuffle=False, loaders=lambda s: s.loader(stream))
    check(scenario, saved_after_step(3))


def test_batches_that_come_as_workers_finish() -> None:
    """With in_order=False the batches of workers cannot be counted, so such a loader is refused."""
    scenario = streaming(Stream, 2, loader=partial(DataLoader, in_order=False))
    with pytest.raises(DecorationError, match="in_order=False"):
        train(scenario)


class Halves(DataLoader[int]):
    """A loader whose class yields other batches than torch's."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield from batch.split(2)


@reading_again
def test_loaders_of_a_users_class_stay() -> None:
    """Torchdata's loader takes the place of torch's own, and not of a user's class, whose batches would be lost."""
    scenario = streaming(KeepsItsStart, 2, loader=Halves)
    assert 12 == uninterrupted(scenario).batches(0)
    check(scenario, saved_after_step(3))


# What streams are told.


@reading_again
@pytest.mark.parametrize("cuts", CUTS[1:], ids=str)
def test_streams_are_told_their_epoch(cuts: tuple[Cut, ...]) -> None:
    """`set_epoch` is called before each pass, so that a stream that shuffles by it goes on in its order."""
    scenario = streaming(ToldItsEpoch)
    check(scenario, *cuts)
    first, second = (uninterrupted(scenario).ids(epoch) for epoch in (0, 1))
    assert first != second


def test_a_stream_that_is_told_its_epoch_reads_one_again() -> None:
    """On demand such a stream reads the epoch again that goes on, and none before it."""
    streams: list[ToldItsEpoch] = []

    def loaders(scenario: Scenario) -> Any:
        streams.append(ToldItsEpoch(scenario.samples))
        return scenario.loader(streams[-1])

    resumed(Scenario(shuffle=False, loaders=loaders, data=ReadAgain), raised_in("training_step", (2, 2)))
    assert [[0, 1, 2], [2]] == [stream.passes for stream in streams]


@reading_again
@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_streams_in_workers_are_told_their_epoch(persistent: bool) -> None:
    """The copies of a stream in workers learn of the epoch, also where the workers stay."""
    scenario = streaming(ToldItsEpoch, 2, loader=partial(DataLoader, persistent_workers=persistent))
    orders = [uninterrupted(scenario).ids(epoch) for epoch in range(3)]
    assert 3 == len(set(map(tuple, orders)))
    check(scenario, raised_in("training_step", (1, 2)))
