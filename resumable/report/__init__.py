"""What became of a run's data, from plain values: counts, a table, a picture.

    report.runs       Run, Session, Step, counts       Python alone
    report.table      as_table                         needs rich
    report.picture    draw                             needs matplotlib

A forecast of a run is drawn as well, and one that wrote an audit:

    report.plan_picture        draw_plan               needs matplotlib
    report.timeline            timeline_of             an audited run as what a picture of it shows
    report.timeline_picture    draw_timelines          needs matplotlib
    report.page                page_of                 needs plotly

Nothing here knows a framework: fill `Run` from any log of the indices that each optimizer step trained.
The extra `demo` brings rich and matplotlib.
"""

from __future__ import annotations

from resumable.report.runs import Counts, Run, Session, Step, compare_weights, counts

__all__ = ["Counts", "Run", "Session", "Step", "compare_weights", "counts"]
