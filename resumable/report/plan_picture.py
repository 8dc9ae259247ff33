"""A picture of a forecast: the global batch size over the optimizer steps, with epochs, stages and resizes."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from resumable.forecast import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_plan"]

_INK: Final = "#333333"
_LINE: Final = "#2266AA"
_RESIZE: Final = "#CC3311"
_QUIET: Final = "#999999"
_MOST_LINES: Final = 30  # ends of epochs that are drawn, before they would be a grey wall


def draw_plan(made: Forecast, path: str | PathLike[str], /) -> None:
    """Write a picture of *made*, PNG or SVG by the suffix of *path*.

    >>> from tempfile import TemporaryDirectory
    >>> from resumable.forecast import forecast
    >>> from resumable.saved.ledger import Stretch
    >>> with TemporaryDirectory() as folder:
    ...     draw_plan(forecast(Stretch(length=10), epochs=2), f"{folder}/plan.svg")
    """
    figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    axes: Axes = figure.add_subplot()
    stages = made.stages
    steps = [stage.first_step - 1 for stage in stages]
    sizes = [stage.batch_size for stage in stages]
    axes.stairs(sizes, [*steps, max(made.total_steps, steps[-1] + 1)], color=_LINE, linewidth=2, fill=True, alpha=0.2)
    axes.stairs(sizes, [*steps, max(made.total_steps, steps[-1] + 1)], color=_LINE, linewidth=2)
    axes.set(
        xlabel="optimizer steps", ylabel="global batch size (samples)", ylim=(0, 1.18 * max(sizes)), xlim=(0, None)
    )
    _mark_epochs(axes, made)
    for part in made.parts[1:]:
        stretch, verdict = part.stretch, part.verdict
        words = (
            f"{stretch.data_parallel_size} x {stretch.micro_batch_size}\n{'' if verdict is None else verdict.outcome}"
        )
        axes.axvline(stretch.step, color=_RESIZE, linestyle="--", linewidth=1.2)
        axes.annotate(words, (stretch.step, 1.16 * max(sizes)), (4, 0), textcoords="offset points", color=_RESIZE, va="top", fontsize=8)  # fmt: skip
    first = made.parts[0].stretch
    axes.set_title(
        f"{first.length:,} samples, {first.data_parallel_size:,} ranks x {first.micro_batch_size:,}: "
        f"{made.total_steps:,} steps, {made.ends.consumed_samples:,} samples trained",
        loc="left",
        fontsize=11,
        color=_INK,
    )
    _tidy(axes)
    figure.savefig(path)


def _mark_epochs(axes: Axes, made: Forecast) -> None:
    ends, step = list[int](), 0
    for row in made.epochs:
        for _ in range(min(row.epochs, _MOST_LINES + 1 - len(ends))):
            step += row.steps
            ends.append(step)
    if len(ends) <= _MOST_LINES:
        for end in ends[:-1]:
            axes.axvline(end, color=_QUIET, linewidth=0.8, linestyle=":")


def _tidy(axes: Axes) -> None:
    thousands = StrMethodFormatter("{x:,.0f}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(thousands)
        axis.label.set_color(_INK)
    axes.spines[["right", "top"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
