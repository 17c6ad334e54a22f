"""A chart of DAG runs as SVG: a bar for each run, the latest on the right, stacked by what became of its records."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from payarc_provider.sync.ledger.browse import RunCounts
from payarc_provider.sync.ledger.states import State

WIDTH, HEIGHT = 1000, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 0, 12, 26
STACK = (State.CREATED, State.REJECTED, State.PENDING)


def chart(runs: Sequence[RunCounts], slots: int) -> Markup:
    """The chart.

    :param runs: the latest first
    :param slots: for how many bars there is room, so that few runs do not make broad ones
    """
    top = _ceiling(max((run.total for run in runs), default=0))
    step = (WIDTH - LEFT - RIGHT) / slots
    bars = Markup("").join(
        _bar(run, LEFT + index * step, step, top, labelled=_labelled(index, len(runs)))
        for index, run in enumerate(reversed(runs))
    )
    lines = Markup("").join(_line(value, top) for value in dict.fromkeys((0, top // 2, top)))
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="chart-title chart-text">'
        '<title id="chart-title">Records per DAG run</title>'
        '<desc id="chart-text">A bar for each of the last {} DAG runs, the latest on the right. '
        "The table below has the same numbers.</desc>{}{}</svg>"
    ).format(WIDTH, HEIGHT, len(runs), lines, bars)


def _bar(run: RunCounts, x: float, step: float, top: int, *, labelled: bool) -> Markup:
    parts, below = [], 0
    for state in STACK:
        count: int = getattr(run, state)
        if count:
            parts.append(
                Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    state, x + step * 0.15, _y(below + count, top), step * 0.7, _y(below, top) - _y(below + count, top)
                )
            )
        below += count
    label = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:%m-%d}</text>').format(
        x + step / 2, HEIGHT - BOTTOM + 16, run.last
    )
    said = f"{run.dag_id} {run.run_id}: {run.created} created, {run.rejected} rejected, {run.pending} pending"
    return Markup("<g><title>{}</title>{}{}</g>").format(said, Markup("").join(parts), label if labelled else "")


def _line(value: int, top: int) -> Markup:
    y = _y(value, top)
    return Markup(
        '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{:,}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 8, y + 4, value)


def _y(value: int, top: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _labelled(index: int, count: int) -> bool:
    return count <= 10 or (count - 1 - index) % 2 == 0


def _ceiling(value: int) -> int:
    """The next round number: 2, 4, 6, 10, 20, 40 ..."""
    unit = 1
    while True:
        for factor in (2, 4, 6, 10):
            if factor * unit >= value:
                return factor * unit
        unit *= 10
