"""The page of an audited run as a picture, PNG or SVG: samples and batch sizes over the steps, and what became of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, cast

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from resumable.report.timeline import Bar, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_timelines"]

_SESSIONS: Final = ("#4C8FD6", "#D9A400", "#2FA58A", "#A07BE0")
_FAULT: Final = "#D6362B"
_INK: Final = "#333333"
_HATCHES: Final = {"lost": "xxxx", "repeated": "", "unknown": "...."}
_WORDS: Final = {"lost": "never trained", "repeated": "trained twice", "unknown": "not accounted for"}
_MOST_NAMES: Final = 12
_UNDONE: Final = 0.45  # opacity


def draw_timelines(timelines: Sequence[Timeline], title: str, path: str | PathLike[str], /) -> None:
    """Write a picture of *timelines*, the runs of one audit, one below the other, on a white ground."""
    ratios = [ratio for timeline in timelines for ratio in (0.7, 2.4, 1.1, max(0.6, 0.22 * len(timeline.epochs)))]
    figure = Figure(
        figsize=(11, 1.2 + sum(ratios) + 0.7 * len(ratios)), dpi=130, layout="constrained", facecolor="white"
    )
    axes = cast("Any", figure).subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)
    figure.suptitle(title, x=0.01, ha="left", color=_INK, fontsize=13, fontweight="bold")
    for number, timeline in enumerate(timelines):
        sessions, samples, sizes, epochs = axes[4 * number : 4 * number + 4, 0]
        _draw_sessions(sessions, timeline, f"Run {number}. " if len(timelines) > 1 else "")
        _draw_samples(samples, timeline)
        _draw_sizes(sizes, timeline)
        _draw_epochs(epochs, timeline)
        for each in (sessions, samples, sizes):
            each.set_xlim(0, 1.01 * max(1, *(bar.reached for bar in timeline.bars)))
    figure.savefig(path)


def _colour(bar: int) -> str:
    return _SESSIONS[bar % len(_SESSIONS)]


def _draw_sessions(axes: Axes, timeline: Timeline, name: str) -> None:
    """A bar for each session, on two lanes in turn: what a later one undid lies beside that one."""
    for bar in timeline.bars:
        lane, colour = bar.number % 2, _colour(bar.number)
        axes.barh(lane, bar.last_step - bar.first_step, 0.8, bar.first_step, color=colour)
        axes.barh(lane, bar.reached - bar.last_step, 0.8, bar.last_step, color=colour, alpha=_UNDONE, hatch="////")
        if bar.was_killed:
            axes.plot(bar.reached, lane, "x", color=_FAULT, markersize=7, markeredgewidth=2)
    faults = timeline.faults
    verdict = "exactly once" if not faults else f"not exactly once: {faults[0]}"
    text = f"{name}{timeline.ends.consumed_samples:,} samples in {timeline.steps:,} steps, {len(timeline.bars)} sessions: {verdict}"
    axes.set_title("\n".join(wrap(text, 130)), loc="left", fontsize=10, color=_FAULT if faults else _INK)
    axes.set(ylabel="sessions", yticks=[], ylim=(1.6, -0.6))
    _tidy(axes, y=False)


def _draw_samples(axes: Axes, timeline: Timeline) -> None:
    for bar in timeline.bars:
        axes.plot(*zip(*bar.curve, strict=True), color=_colour(bar.number), linewidth=2.2)
    _mark_resizes(axes, timeline)
    axes.set(ylabel="consumed samples", ylim=(0, None))
    _tidy(axes)
    axes.legend(handles=_legend(timeline), loc="upper left", fontsize=8, frameon=False, ncols=2)


def _draw_sizes(axes: Axes, timeline: Timeline) -> None:
    for bar in timeline.bars:
        if bar.stages:
            steps = [*(stage.first_step - 1 for stage in bar.stages), bar.last_step]
            axes.stairs(
                [stage.batch_size for stage in bar.stages],
                steps,
                color=_colour(bar.number),
                linewidth=2.2,
                baseline=None,
            )
    _mark_resizes(axes, timeline, is_named=False)
    axes.set(xlabel="optimizer steps", ylabel="global batch", ylim=(0, None))
    _tidy(axes)


def _mark_resizes(axes: Axes, timeline: Timeline, *, is_named: bool = True) -> None:
    for before, after in timeline.resizes:
        axes.axvline(after.first_step, color="#888888", linestyle=":", linewidth=1.2)
        if is_named:
            words = f" {_sizes(before)} → {_sizes(after)}"
            axes.annotate(words, (after.first_step, 0.02), xycoords=("data", "axes fraction"), fontsize=8, color=_INK)


def _sizes(bar: Bar) -> str:
    return f"{bar.ranks} x {bar.micro_batch_size}"


def _draw_epochs(axes: Axes, timeline: Timeline) -> None:
    for row, cover in enumerate(timeline.epochs):
        axes.barh(row, cover.length, 0.8, color="#EEEEEE")
        for piece in cover.pieces:
            is_fault = piece.session is None
            axes.barh(
                row,
                piece.stop - piece.start,
                0.8,
                piece.start,
                color=_FAULT if piece.session is None else _colour(piece.session),
                hatch=_HATCHES[piece.kind] if is_fault else None,
                edgecolor="white",
                linewidth=0.5,
            )
    every = -(-len(timeline.epochs) // _MOST_NAMES)
    axes.set_yticks(range(0, len(timeline.epochs), every), [cover.name for cover in timeline.epochs[::every]])
    axes.set(
        xlabel="place in the epoch's order", ylabel="epoch", ylim=(len(timeline.epochs) - 0.4, -0.6), xlim=(0, None)
    )
    _tidy(axes, y=False)


def _legend(timeline: Timeline) -> list[Any]:
    handles: list[Any] = []
    for at, colour in enumerate(_SESSIONS[: len(timeline.bars)]):
        numbers = ", ".join(str(bar.number) for bar in timeline.bars[at :: len(_SESSIONS)][:3])
        more = ", ..." if len(timeline.bars[at :: len(_SESSIONS)]) > 3 else ""
        handles.append(Line2D([], [], color=colour, linewidth=2.2, label=f"session {numbers}{more}"))
    if any(bar.was_killed for bar in timeline.bars):
        handles.append(Line2D([], [], color=_FAULT, marker="x", linestyle="", markeredgewidth=2, label="killed"))
    if any(bar.reached > bar.last_step for bar in timeline.bars):
        handles.append(Patch(facecolor=_SESSIONS[0], alpha=_UNDONE, hatch="////", label="undone"))
    kinds = {fault.kind for fault in timeline.faults}
    return [
        *handles,
        *(
            Patch(facecolor=_FAULT, hatch=_HATCHES[kind], edgecolor="white", label=_WORDS[kind])
            for kind in sorted(kinds)
        ),
    ]


def _tidy(axes: Axes, *, y: bool = True) -> None:
    thousands = StrMethodFormatter("{x:,.0f}")
    axes.xaxis.set_major_formatter(thousands)
    if y:
        axes.yaxis.set_major_formatter(thousands)
    axes.spines[["right", "top"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.set_xlim(left=0)
