"""`ResumptionState`: the position of a run, saved and loaded, whoever counts the steps.

ResumptionState ──asks──► Frontier      a loop's own count          (loader)
                                        a sampler and a trainer     (here)
                                        Lightning's loop counters   (adapters.lightning)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from resumable.errors import ResumptionError, explain
from resumable.ledger import Ledger, Stretch
from resumable.position import Position
from resumable.protocols import DataSampler, Trainer
from resumable.sampler_frontier import SamplerFrontier
from resumable.saved import Place, Saved, dump, parse
from resumable.verdict import Identity, Verdict

__all__ = ["Frontier", "ResumptionState"]


class Frontier(Protocol):
    """Whoever knows how far the training has come."""

    @property
    def position(self) -> Position:
        """The trained frontier."""
        ...

    @property
    def order(self) -> Identity | None:
        """What the order depends on; None where there is no order to speak of."""
        ...

    @property
    def stretch(self) -> Stretch | None:
        """The present configuration, from the place where it began; None where it is not known."""
        ...

    @property
    def commits(self) -> bool:
        """Whether the loop says itself what is trained."""
        ...

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase."""
        ...

    @property
    def knows_epochs(self) -> bool:
        """Whether the position tells epoch and offset; else they follow from the consumed samples, once loaded."""
        ...

    def places(self) -> tuple[Place, ...]:
        """Where further loaders stand; empty where one position says it all."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether batches are on their way, which a loaded position would not know of."""
        ...

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved*; raise and change nothing where that cannot be."""
        ...

    def commit(self) -> None:
        """Everything handed out so far is trained."""
        ...

    def rebase(self) -> None:
        """Begin to count anew from the present position; moves nothing."""
        ...

    def note_saved(self) -> None:
        """The position was handed out to be saved."""
        ...

    def settle(self) -> None:
        """Stand where the next pass would begin, since another loader takes over."""
        ...


class ResumptionState:
    """The position of a training run in its data.

    It fits `torch.distributed.checkpoint`'s `Stateful`, and any checkpoint that holds JSON types. Given a *sampler*
    of NeMo's shape and a *trainer*, it counts as they do; a `ResumableLoader` or a decorated datamodule brings a
    state of its own.

    >>> state = ResumptionState()
    >>> state.load_state_dict({"consumed_samples": 640})
    >>> state.consumed_samples
    640
    """

    def __init__(self, sampler: DataSampler | None = None, trainer: Trainer | None = None) -> None:
        self._frontier: Frontier | None = None if sampler is None else SamplerFrontier(sampler, trainer)
        self._saved = Saved()
        self._verdict = Verdict()
        self._noted: tuple[Stretch, Ledger] | None = None
        self._dumped: _Dumped | None = None

    @property
    def position(self) -> Position:
        """The trained frontier: the place from which a resumed run goes on.

        Epoch and offset are 0 where only the consumed samples are known, until a loader tells the dataset's length.
        """
        if self._frontier is not None:
            return self._frontier.position
        return self._saved.position or Position(self._saved.consumed_samples)

    @property
    def consumed_samples(self) -> int:
        """Samples whose optimizer step has completed, over all ranks, since the run began."""
        return self.position.consumed_samples

    @property
    def verdict(self) -> Verdict:
        """How exactly the last loaded state goes on in the present configuration."""
        return self._verdict

    @property
    def ledger(self) -> Ledger:
        """The run's stretches so far, the present one included once it has trained a sample."""
        frontier = self._frontier
        if frontier is None or frontier.stretch is None:
            return self._saved.ledger
        return self._ledger_with(frontier.stretch, frontier.position)

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase; 0 where no trainer counts."""
        return 0 if self._frontier is None else self._frontier.init_global_step

    def update_init_global_step(self) -> None:
        """Count from the trainer's present step on. Needed never, harmless always: step and count move together."""
        if self._frontier is not None:
            self._frontier.rebase()

    def commit(self) -> None:
        """Say that everything yielded so far is trained; call it after `optimizer.step()`.

        From the first call on, only what is committed counts, in resumed runs too. A call before the loop says so
        from the start.

        Raises:
            ResumptionError: if nothing is connected that yields samples.
        """
        if self._frontier is None:
            raise ResumptionError(
                explain(
                    "There is nothing to commit: no loader is connected to this state.",
                    [("position", self.position)],
                    "Use the state of a ResumableLoader (loader.state), or build the loader first.",
                )
            )
        self._frontier.commit()

    def state_dict(self) -> dict[str, Any]:
        """The position as a new dict of JSON types, always with the same keys."""
        frontier = self._frontier
        if frontier is None:
            return dump(self._saved)
        position, stretch = frontier.position, frontier.stretch
        ledger = self._saved.ledger if stretch is None else self._ledger_with(stretch, position)
        frontier.note_saved()
        fresh = self._dump_rest(frontier, ledger)
        fresh["consumed_samples"] = position.consumed_samples
        fresh["epoch"], fresh["offset"] = (position.epoch, position.offset) if frontier.knows_epochs else (None, None)
        return fresh

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved position: one that `state_dict` gave, or a bare `{"consumed_samples": n}`.

        Raises:
            StateError: if it cannot be read.
            MismatchError: if it cannot go on exactly with the dataset, the seed or the order that are connected.
        """
        saved = parse(state_dict)
        if self._frontier is not None and self._frontier.is_running:
            raise ResumptionError(
                explain(
                    "A state cannot be loaded while the loader is being iterated: the batches on their way are others.",
                    [("position", self.position)],
                    "Load it before the loop, or leave the loop first. Nothing was loaded.",
                )
            )
        self.load_snapshot(saved)

    def load_snapshot(self, saved: Saved, /) -> None:
        """Take over a position that is a value already."""
        if self._frontier is not None:
            self._verdict = self._frontier.load(saved)
        self._saved, self._noted = saved, None

    def count_with(self, frontier: Frontier, /, *, later: bool = False) -> None:
        """Let *frontier* count from where the present one would begin its next pass.

        With *later*, a frontier that is running goes on counting until the other one begins.
        """
        if self._frontier is frontier or (later and self._frontier is not None and self._frontier.is_running):
            return
        if self._frontier is not None:
            self._frontier.settle()
        self.connect(frontier)

    def forget(self, trained_by: type[Any], /) -> None:
        """Leave whoever counted. A run that a *trained_by* counted is over: the next begins at the first sample.

        What anybody else counted was no training of a trainer: the position is again the one that was loaded.
        """
        saved = Saved() if isinstance(self._frontier, trained_by) else self._saved
        self.__setstate__({"_saved": saved, "_verdict": Verdict()})

    def connect(self, frontier: Frontier, /) -> None:
        """Count with *frontier* from the present position on; what was loaded before is loaded into it.

        Raises:
            MismatchError: if the position cannot go on exactly in the frontier's order; then nothing has changed.
        """
        saved = self.snapshot()
        self._verdict = frontier.load(saved)
        self._saved, self._frontier, self._noted = saved, frontier, None

    def disconnect(self) -> None:
        """Keep the present position without whoever counted it, as a copy or a pickle does."""
        self.__setstate__(self.__getstate__())

    def snapshot(self) -> Saved:
        """The state as a value."""
        frontier = self._frontier
        if frontier is None:
            return self._saved
        at = frontier.position
        epoch, offset = (at.epoch, at.offset) if frontier.knows_epochs else (None, None)
        return Saved(
            at.consumed_samples, epoch, offset, frontier.order, frontier.commits, frontier.places(), self.ledger
        )

    def __getstate__(self) -> dict[str, object]:
        return {"_saved": self.snapshot(), "_verdict": self._verdict}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._saved, self._verdict = kept["_saved"], kept["_verdict"]
        self._frontier = self._noted = self._dumped = None

    def __repr__(self) -> str:
        at = self.position
        return f"<ResumptionState consumed_samples={at.consumed_samples} epoch={at.epoch} offset={at.offset}>"

    def _ledger_with(self, stretch: Stretch, position: Position) -> Ledger:
        """The loaded ledger, and the present stretch once it has trained a sample: loading and saving adds nothing."""
        if position.consumed_samples <= stretch.sample:
            return self._saved.ledger
        if self._noted is None or self._noted[0] is not stretch:
            begun = replace(stretch, step=self._saved.ledger.global_step_at(stretch.sample))
            self._noted = (stretch, self._saved.ledger.note(begun))
        return self._noted[1]

    def _dump_rest(self, frontier: Frontier, ledger: Ledger) -> dict[str, Any]:
        """All but the position, from the last dump where nothing of it has changed: a save may follow every batch."""
        places, order, commits = frontier.places(), frontier.order, frontier.commits
        last = self._dumped
        if last is None or places or last.ledger is not ledger or last.order is not order or last.commits != commits:
            dumped = dump(Saved(0, 0, 0, order, commits, places, ledger))
            self._dumped = _Dumped(ledger, order, commits, dumped)
        else:
            dumped = last.dumped
        fresh = dict(dumped)
        if order is not None:
            fresh["order"] = dict(dumped["order"])
        fresh["loaders"] = list(map(dict, dumped["loaders"]))
        fresh["ledger"] = list(map(dict, dumped["ledger"]))
        return fresh


class _Dumped(NamedTuple):
    ledger: Ledger
    order: Identity | None
    commits: bool
    dumped: dict[str, Any]
