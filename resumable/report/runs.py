"""A run's sessions as plain values, and what became of its data.

A run that is killed goes back to its last checkpoint. What it had trained since then is undone, since the weights
forget it; what counts is each session's share up to the checkpoint that the next one goes on from:

    session 0   ████████▒▒ ✕              ▒ undone by the kill
    session 1           ██████▒ ✕
    session 2                 █████████
    history     ████████████████████████
"""

from __future__ import annotations

from dataclasses import dataclass

from resumable.errors import ConfigurationError

__all__ = ["Counts", "Run", "Session", "Step", "compare_weights", "counts"]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: the *epoch* it belongs to, from 0, and the dataset *indices* that it trained."""

    epoch: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One process of a run: it went on after *start_step* optimizer steps and did *steps*, until it ended or was *killed*."""

    start_step: int
    steps: tuple[Step, ...]
    killed: bool = False

    @property
    def stop_step(self) -> int:
        """Optimizer steps that the run had completed when this session ended."""
        return self.start_step + len(self.steps)


@dataclass(frozen=True, slots=True)
class Run:
    """All sessions of a run that must train each of *samples* indices once in each of its first *epochs*.

    For a run that has not ended, pass its complete epochs: later samples can be repeated, but none is lost yet.

    *final_loss* and *weights_digest*, any text that equal weights have in common, are for comparing runs.
    """

    name: str
    samples: int
    epochs: int
    sessions: tuple[Session, ...]
    final_loss: float | None = None
    weights_digest: str | None = None

    @property
    def kills(self) -> int:
        """How many of the sessions were killed."""
        return sum(session.killed for session in self.sessions)

    def history(self) -> list[tuple[int, Step]]:
        """The steps that count, in order, each with the number of its session.

        Raises `ConfigurationError` if a session goes on from a step that no earlier one reached.

        >>> one, two = Session(0, (Step(0, (3, 1)), Step(0, (0, 2))), killed=True), Session(1, (Step(0, (2, 0)),))
        >>> [(number, step.indices) for number, step in Run("a", 4, 1, (one, two)).history()]
        [(0, (3, 1)), (1, (2, 0))]
        """
        history: list[tuple[int, Step]] = []
        for number, session in enumerate(self.sessions):
            if session.start_step > len(history):
                raise ConfigurationError(
                    f"Session {number} of {self.name!r} goes on from a step that no session reached.",
                    [("start_step", session.start_step), ("steps until then", len(history))],
                    "Pass all sessions of the run, in the order in which they ran.",
                )
            del history[session.start_step :]
            history += [(number, step) for step in session.steps]
        return history


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a run's samples, over all its epochs; *undone_steps* are those that kills threw away."""

    trained: int
    repeated: int
    lost: int
    undone_steps: int


def counts(run: Run, /) -> Counts:
    """Samples that *run* trained, how many of them their epoch had trained already, and how many it never trained.

    >>> counts(Run("a", 4, 1, (Session(0, (Step(0, (3, 1)), Step(0, (3, 0)))),)))
    Counts(trained=4, repeated=1, lost=1, undone_steps=0)
    """
    history = run.history()
    trained = [(step.epoch, index) for _, step in history for index in step.indices]
    met = set(trained)
    return Counts(
        trained=len(trained),
        repeated=len(trained) - len(met),
        lost=run.epochs * run.samples - sum(epoch < run.epochs and index < run.samples for epoch, index in met),
        undone_steps=sum(len(session.steps) for session in run.sessions) - len(history),
    )


def compare_weights(run: Run, reference: Run, /) -> str:
    """How *run*'s weights compare with *reference*'s: "bit-equal", "differ", or "" if a digest is unknown.

    >>> compare_weights(Run("a", 1, 1, (), weights_digest="5f"), Run("b", 1, 1, (), weights_digest="5f"))
    'bit-equal'
    """
    if run.weights_digest is None or reference.weights_digest is None:
        return ""
    return "bit-equal" if run.weights_digest == reference.weights_digest else "differ"
