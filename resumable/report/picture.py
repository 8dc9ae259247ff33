"""A picture of runs: which part of the data each session trained, where it was killed, what was repeated or lost.

name, killed 2 times             trained · repeated · lost
████████▒▒ ✕      ████████      the sessions, on two lanes; ▒ was undone by a kill
        █████████▒ ✕
░░░░░░░░▓▓▓▓▓▓▓▓▓▓░░░░░░░░      the cells: one for each sample, in the order of training
                      ▇▇▇▇      what the epoch never trained, at the scale of the cells
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from resumable.errors import ConfigurationError
from resumable.report.runs import Run, Session, compare_weights, counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["draw"]

# Calm colours for the sessions, in turn, and two loud ones for trouble. People with any colour vision can distinguish
# them, in grey too. After Okabe and Ito, "Color Universal Design" (2008), and Paul Tol, "Colour Schemes" (2021).
_SESSIONS: Final = ("#77AADD", "#EEDD88", "#44BB99", "#D5C7F0")
_REPEATED: Final = "#CC3311"
_LOST: Final = "#222222"
_INK: Final = "#333333"
_UNDONE: Final = 0.4  # opacity
_CROSS: Final[dict[str, Any]] = {
    "color": _INK,
    "marker": "x",
    "linestyle": "",
    "markersize": 5.5,
    "markeredgewidth": 1.8,
}

# In pixels: the picture, and the heights of what surrounds the cells of a run.
_WIDTH: Final = 1600
_HEIGHT: Final = 700
_DPI: Final = 150
_MARGIN: Final = 40
_TOP: Final = 14
_HEADER: Final = 40
_LANE: Final = 15
_GAP: Final = 26
_FOOTER: Final = 110
_ROOM: Final = 0.12  # of the width, for a few words


def _colour(session: int) -> str:
    return _SESSIONS[session % len(_SESSIONS)]


def _lanes(run: Run) -> int:
    return 2 * _LANE + 3 if len(run.sessions) > 1 or run.kills else 0


def _cells(run: Run) -> NDArray[np.float64]:
    """An RGBA image of *run*'s history: a column for each step, a cell for each sample, in the order of training."""
    history = run.history()
    height = max((len(step.indices) for _, step in history), default=1)
    image = np.zeros((height, len(history), 4))
    met: set[tuple[int, int]] = set()
    for column, (session, step) in enumerate(history):
        for row, index in enumerate(step.indices):
            image[row, column] = to_rgba(_REPEATED if (step.epoch, index) in met else _colour(session))
            met.add((step.epoch, index))
    return image


def _epochs(run: Run) -> list[tuple[int, int, int, int]]:
    """Each epoch that *run* began: its number, first step, the step after its last, and the samples that it never trained."""
    trained: dict[int, set[int]] = {}
    places: dict[int, list[int]] = {}
    for place, (_, step) in enumerate(run.history()):
        trained.setdefault(step.epoch, set()).update(step.indices)
        places.setdefault(step.epoch, []).append(place)
    return [
        (epoch, min(places[epoch]), max(places[epoch]) + 1, run.samples - len(met) if epoch < run.epochs else 0)
        for epoch, met in trained.items()
    ]


def _depth(run: Run) -> float:
    """How far what *run* lost hangs below its cells, in their height: half of it, or more if an epoch is too short."""
    high = max((len(step.indices) for _, step in run.history()), default=1)
    worst = max((lost / (stop - start) / high for _, start, stop, lost in _epochs(run)), default=0)
    return min(1.0, max(0.5, worst)) if worst else 0.0


def _write(axes: Axes, x: float, y: float, words: str, align: str, **style: Any) -> None:
    style = {"ha": align, "va": "center", "fontsize": 9, "color": _INK, **style}
    axes.text(x, y, words, **style)


def _draw_sessions(axes: Axes, run: Run, top: float) -> None:
    """A bar for each session, on two lanes in turn: what a kill undid lies beside the session that did it again."""
    for number, session in enumerate(run.sessions):
        kept = min(after.start_step for after in (*run.sessions[number + 1 :], Session(session.stop_step, ())))
        lane = top + _LANE * (number % 2)
        for start, stop, opacity in ((session.start_step, kept, 1.0), (kept, session.stop_step, _UNDONE)):
            axes.barh(lane, stop - start, _LANE - 3, start, color=_colour(number), alpha=opacity, align="edge")
        if session.killed:
            axes.plot(session.stop_step, lane + _LANE / 2 - 1.5, **_CROSS)


def _draw_run(axes: Axes, run: Run, reference: Run, top: float, height: float) -> float:
    """Header, sessions, cells and what was lost, from *top* down; returns where it ends."""
    count = counts(run)
    title = f"{run.name}, killed {run.kills} {'time' if run.kills == 1 else 'times'}" if run.kills else run.name
    _write(axes, 0, top, title, "left", va="top", fontsize=10.5, fontweight="bold")
    weights = "" if run is reference else compare_weights(run, reference)
    found = [f"{count.trained:,} trained", f"{count.repeated:,} repeated", f"{count.lost:,} lost"]
    found += [f"weights {weights}"] if weights else []
    trouble = {"color": _REPEATED} if count.repeated or count.lost or weights == "differ" else {}
    _write(axes, axes.get_xlim()[1], top, "  ·  ".join(found), "right", va="top", fontsize=10, **trouble)
    top += _HEADER
    if _lanes(run):
        _draw_sessions(axes, run, top)
    top += _lanes(run)
    image = _cells(run)
    if image.size:
        axes.imshow(image, extent=(0, image.shape[1], top + height, top), aspect="auto", interpolation="nearest")
    for epoch, start, stop, lost in _epochs(run):
        axes.plot([stop, stop], [top, top + height], color="white", linewidth=2.5)
        if run is reference:
            _write(axes, (start + stop) / 2, top + height / 2, f"epoch {epoch}", "center")
        if lost:
            depth = _depth(run)
            columns = min(lost / (depth * image.shape[0]), stop - start)
            below, words = top + height + 4, f"{lost:,} never trained"
            _draw_lost(axes, words, start=start, stop=stop, columns=columns, top=below, height=depth * height)
    return top + height * (1 + _depth(run)) + _GAP


def _draw_lost(axes: Axes, words: str, *, start: float, stop: float, columns: float, top: float, height: float) -> None:
    """A bar of *columns* up to *stop*, where the epoch ends, with *words* on it or beside it, if they have room there."""
    axes.barh(top, -columns, height, stop, color=_LOST, align="edge", edgecolor="white")
    room = _ROOM * axes.get_xlim()[1]
    if columns > room:
        _write(axes, stop - columns / 2, top + height / 2, words, "center", color="white")
    elif stop - start - columns > room:
        _write(axes, stop - columns - 2, top + height / 2, words, "right")


def _legend(figure: Figure, sessions: int) -> None:
    handles: list[Any] = []
    for number, colour in enumerate(_SESSIONS[:sessions]):
        same = range(number, sessions, len(_SESSIONS))
        handles.append(Patch(color=colour, label=f"session {', '.join(map(str, same[:2]))}{', ...' * (len(same) > 2)}"))
    handles += [
        Line2D([], [], label="killed", **_CROSS),
        Patch(color=_colour(0), alpha=_UNDONE, label="undone by the kill"),
        Patch(color=_REPEATED, label="repeated in its epoch"),
        Patch(color=_LOST, label="never trained"),
    ]
    spacing = {"handlelength": 1.0, "columnspacing": 1.4, "handletextpad": 0.5}
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, **spacing)


def draw(runs: Sequence[Run], path: str | PathLike[str], /) -> None:
    """Write a PNG picture of *runs*, 1600 x 700 pixels, one below the other; weights are compared with those of the first.

    A cell is a sample, a column an optimizer step, a colour a session. What an epoch trained again stands out in
    its place; what it never trained hangs below its end, at the same scale while there is room. Raises
    `ConfigurationError` if there are no runs.

    >>> from resumable.report.runs import Step
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     draw([Run("a", 1, 1, (Session(0, (Step(0, (0,)),)),))], f"{folder}/a.png")
    """
    if not runs:
        raise ConfigurationError("There is nothing to draw.", [("runs", list(runs))], "Pass at least one run.")
    figure = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI)
    bottom, side = _FOOTER / _HEIGHT, _MARGIN / _WIDTH
    axes = figure.add_axes((side, bottom, 1 - 2 * side, 1 - bottom))
    axes.set(xlim=(0, max(1, *(len(run.history()) for run in runs))), xlabel="optimizer steps", yticks=[])
    top, free = float(_TOP), _HEIGHT - _FOOTER
    surrounding = sum(_HEADER + _lanes(run) + _GAP for run in runs)
    height = (free - top - surrounding) / sum(1 + _depth(run) for run in runs)
    for run in runs:
        top = _draw_run(axes, run, runs[0], top, height)
    axes.set(xlim=axes.get_xlim(), ylim=(free, 0))  # again, since imshow moves them
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    axes.xaxis.label.set_color(_INK)
    _legend(figure, max(len(run.sessions) for run in runs))
    figure.savefig(path)
