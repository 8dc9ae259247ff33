"""The page of an audited run: one HTML file that needs no network, for light and dark screens.

what it says          whether each sample was trained exactly once, and where it was not
sessions              over the steps; fainter, what a later session undid
steps ──► samples     consumed samples
steps ──► batch       the global batch size of each step
epochs                which session trained which part of each; what was repeated or lost
table                 the sessions once more, in numbers

Hover shows the values; a click on a name in the legend hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final, cast

import plotly.graph_objects as go
from plotly import subplots

from resumable.report.timeline import Bar, Timeline

__all__ = ["page_of"]

_SESSIONS: Final = ("#4C8FD6", "#D9A400", "#2FA58A", "#A07BE0")
"""In turn. They are told apart by people with any colour vision, on white and on black."""
_FAULT: Final = "#D6362B"
_PATTERNS: Final = {"lost": "x", "repeated": "", "unknown": "."}
_ROW: Final = 22  # pixels of an epoch
_GAP: Final = 75  # pixels between two rows of the figure
_LOST: Final = {"lost": "never trained", "repeated": "trained twice", "unknown": "not accounted for"}

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --quiet: #666; --paper: #fff; --line: #ddd; --good: #16794c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --quiet: #a0a0a0; --paper: #16181c; --line: #3a3d44; --good: #58c08f; --bad: #ff8a80; }
}
body { margin: 2rem auto; max-width: 1100px; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.quiet { color: var(--quiet); } ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
"""

_SCRIPT: Final = """
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function paint() {
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue(name).trim();
  for (const plot of document.querySelectorAll('.plotly-graph-div')) {
    const change = {'font.color': of('--ink'), 'hoverlabel.bgcolor': of('--paper'), 'hoverlabel.font.color': of('--ink')};
    for (const axis of Object.keys(plot.layout).filter(name => /^[xy]axis/.test(name)))
      Object.assign(change, {[axis + '.gridcolor']: of('--line'), [axis + '.linecolor']: of('--quiet'), [axis + '.zerolinecolor']: of('--line')});
    Plotly.relayout(plot, change);
  }
}
dark.addEventListener('change', paint);
window.addEventListener('load', paint);
"""


def page_of(timelines: Sequence[Timeline], title: str, /) -> str:
    """The page of *timelines*, the runs of one audit, under *title*."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for number, timeline in enumerate(timelines):
        if len(timelines) > 1:
            parts.append(f"<h2>Run {number}</h2>")
        parts += [_verdict(timeline), _figure(timeline, with_library=number == 0), _table(timeline)]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _verdict(timeline: Timeline) -> str:
    ends, faults = timeline.ends, timeline.faults
    far = (
        f"{ends.consumed_samples:,} samples in {timeline.steps:,} steps: {ends.epoch:,} epochs, and {ends.offset:,} samples of the "
        f"next. {len(timeline.bars):,} sessions, of which {sum(bar.was_killed for bar in timeline.bars):,} were killed; "
        f"{timeline.undone_samples:,} samples undone."
    )
    if not faults:
        verdict = f'<p class="verdict good">{escape(timeline.verdict)}</p>'
    else:
        rows = "".join(f"<li>{escape(str(fault))}</li>" for fault in faults[:10])
        verdict = f'<p class="verdict bad">Not exactly once.</p><ul>{rows}</ul>'
    return f'{verdict}\n<p class="quiet">{far}</p>'


def _figure(timeline: Timeline, *, with_library: bool) -> str:
    heights = [90, 280, 130, max(80, _ROW * len(timeline.epochs))]
    height = sum(heights) + 4 * _GAP
    figure: Any = cast("Any", subplots).make_subplots(
        rows=4,
        cols=1,
        row_heights=heights,
        vertical_spacing=_GAP / height,
        subplot_titles=(
            "Sessions",
            "Consumed samples",
            "Global batch size",
            "Epochs: who trained which of their samples",
        ),
    )
    for bar in timeline.bars:
        _add_bar(figure, bar)
        _add_curves(figure, bar)
    for before, after in timeline.resizes:
        words = f"{before.ranks} x {before.micro_batch_size} → {after.ranks} x {after.micro_batch_size}"
        at = {"x": after.first_step, "row": 2, "col": 1}
        figure.add_annotation(**at, y=1, yref="y2 domain", text=words, showarrow=False, xanchor="left", yanchor="top")
        for row in (1, 2, 3):
            figure.add_vline(**{**at, "row": row}, line={"dash": "dot", "width": 1.5, "color": "#888"})
    _add_kills(figure, timeline)
    _add_epochs(figure, timeline)
    figure.update_layout(
        height=height,
        barmode="overlay",
        bargap=0.15,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 20, "t": 80, "b": 50},
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0},
        font={"family": "system-ui, sans-serif"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#888", "activecolor": "#888"},
    )
    figure.update_annotations(font_size=13)
    for row in (1, 2, 3):
        figure.update_xaxes(row=row, col=1, matches="x3", rangemode="tozero")
    figure.update_xaxes(title_text="optimizer steps", title_standoff=4, row=3, col=1)
    figure.update_xaxes(
        title_text="place in the epoch's order", title_standoff=4, rangemode="nonnegative", row=4, col=1
    )
    figure.update_yaxes(rangemode="tozero", tickformat=",d")
    figure.update_yaxes(type="category", showticklabels=False, row=1, col=1)
    figure.update_yaxes(autorange="reversed", type="category", row=4, col=1)
    figure.update_xaxes(tickformat=",d")
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=with_library, config={"displaylogo": False, "responsive": True}
    )
    return text


def _colour(bar: int) -> str:
    return _SESSIONS[bar % len(_SESSIONS)]


def _add_bar(figure: Any, bar: Bar) -> None:
    """The session on one of two lanes: what a later one undid lies beside that one."""
    name, colour = f"session {bar.number}", _colour(bar.number)
    told = (
        f"{name}: {bar.ranks} ranks x {bar.micro_batch_size}<br>after step %{{base:,d}}, %{{x:,d}} steps<extra></extra>"
    )
    spans = [(bar.first_step, bar.last_step, 1.0, ""), (bar.last_step, bar.reached, 0.45, "undone<br>")]
    for first, last, opacity, word in spans:
        if last > first or not word:
            figure.add_trace(
                go.Bar(
                    orientation="h",
                    y=[_lane(bar)],
                    x=[last - first],
                    base=[first],
                    marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": "/" if word else ""}},
                    opacity=opacity,
                    name=name,
                    legendgroup=name,
                    showlegend=not word,
                    hovertemplate=word + told,
                ),
                row=1,
                col=1,
            )


def _lane(bar: Bar) -> str:
    return "even" if bar.number % 2 == 0 else "odd"


def _add_curves(figure: Any, bar: Bar) -> None:
    name = f"session {bar.number}"
    sizes = [stage.batch_size for stage in bar.stages]
    steps = [*(stage.first_step - 1 for stage in bar.stages), bar.last_step]
    curves = (
        (
            2,
            [step for step, _ in bar.curve],
            [count for _, count in bar.curve],
            "linear",
            "step %{x:,d}<br>%{y:,d} samples",
        ),
        (3, steps if sizes else [], [*sizes, *sizes[-1:]], "hv", "from step %{x:,d} on<br>%{y:,d} samples a step"),
    )
    for row, x, y, shape, told in curves:
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": _colour(bar.number), "width": 2.5, "shape": shape},
                name=name,
                legendgroup=name,
                showlegend=False,
                hovertemplate=f"{name}<br>{told}<extra></extra>",
            ),
            row=row,
            col=1,
        )


def _add_kills(figure: Any, timeline: Timeline) -> None:
    killed = [bar for bar in timeline.bars if bar.was_killed]
    if killed:
        figure.add_trace(
            go.Scatter(
                x=[bar.reached for bar in killed],
                y=[_lane(bar) for bar in killed],
                mode="markers",
                marker={"symbol": "x-thin", "size": 10, "line": {"width": 2.5, "color": _FAULT}},
                name="killed",
                customdata=[bar.number for bar in killed],
                hovertemplate="session %{customdata} killed<br>after step %{x:,d}<extra></extra>",
            ),
            row=1,
            col=1,
        )


def _add_epochs(figure: Any, timeline: Timeline) -> None:
    """A bar for each piece of an epoch, those of a session or of a kind of fault in one trace."""
    traces: dict[tuple[int | None, str], list[tuple[str, int, int]]] = {}
    for cover in timeline.epochs:
        for piece in cover.pieces:
            traces.setdefault((piece.session, piece.kind), []).append((cover.name, piece.start, piece.stop))
    for (session, kind), rows in sorted(traces.items(), key=lambda each: (each[0][0] is None, str(each[0]))):
        word = f"session {session}" if session is not None else _LOST[kind]
        marker: dict[str, Any] = {"color": _FAULT if session is None else _colour(session)}
        if session is None:
            marker["pattern"] = {"shape": _PATTERNS[kind], "solidity": 0.5}
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[name for name, _, _ in rows],
                x=[stop - start for _, start, stop in rows],
                base=[start for _, start, _ in rows],
                customdata=[(start, stop - 1, stop - start) for _, start, stop in rows],
                marker=marker,
                name=word,
                legendgroup=word,
                showlegend=session is None,
                hovertemplate=f"epoch %{{y}}: {word}<br>places %{{customdata[0]:,d}} to %{{customdata[1]:,d}}<br>%{{customdata[2]:,d}} samples<extra></extra>",
            ),
            row=4,
            col=1,
        )


def _table(timeline: Timeline) -> str:
    rows = "".join(f"<tr>{_cells(bar)}</tr>\n" for bar in timeline.bars)
    names = (
        "session",
        "began (UTC)",
        "after step",
        "to step",
        "samples",
        "undone steps",
        "ranks",
        "micro batch",
        "ended",
    )
    head = "".join(f"<th{' class=words' if name == 'ended' else ''}>{name}</th>" for name in names)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'


def _cells(bar: Bar) -> str:
    numbers = (
        bar.first_step,
        bar.last_step,
        bar.ends.consumed_samples - bar.begins.consumed_samples,
        bar.reached - bar.last_step,
        bar.ranks,
        bar.micro_batch_size,
    )
    cells = "".join(f"<td>{number:,}</td>" for number in numbers)
    ended = "killed" if bar.was_killed else "not yet" if bar.is_running else "by itself"
    return f"<td>{bar.number}</td><td>{bar.began:%Y-%m-%d %H:%M:%S}</td>{cells}<td class=words>{ended}</td>"
