"""HTML from the templates in this package, and the chart. Everything that comes from a ledger is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from payarc_provider.ledger.output import HOLDS, age
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import State
from payarc_provider.sync.ledger.overview import RunCounts
from payarc_provider.sync.ledger.rows import iso

_TEMPLATES = files("payarc_provider.plugins") / "templates"
_STYLE = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_TEMPLATES / "page.js").read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src {_csp_hash(_STYLE)}; script-src {_csp_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_environment = Environment(
    loader=PackageLoader("payarc_provider.plugins"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_environment.filters |= {"display_key": display_key, "iso": iso, "age": age}
_environment.globals |= {"style": Markup(_STYLE), "script": Markup(_SCRIPT), "holds": HOLDS}  # noqa: S704 - our own files


def render(template: str, **context: Any) -> str:
    """Render a template."""
    return _environment.get_template(template).render(context)


WIDTH, HEIGHT = 1000, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 0, 12, 26
STACK = (State.CREATED, State.REJECTED, State.PENDING, State.UPDATING)


def chart(runs: Sequence[RunCounts], slots: int) -> Markup:
    """A bar chart of DAG runs as SVG: one bar per run, stacked by the state of its records, the latest on the right.

    :param runs: the latest first
    :param slots: how many bars fit, so that a few runs do not become very wide bars
    """
    top = _round_up(max((run.total for run in runs), default=0))
    step = (WIDTH - LEFT - RIGHT) / slots
    bars = Markup("").join(
        _bar(run, LEFT + index * step, step, top, labelled=_labelled(index, len(runs)))
        for index, run in enumerate(reversed(runs))
    )
    lines = Markup("").join(_grid_line(value, top) for value in dict.fromkeys((0, top // 2, top)))
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
    title = f"{run.dag_id} {run.run_id}: {run.created} created, {run.rejected} rejected, {run.pending} pending"
    title += f", {run.updating} updating" if run.updating else ""
    return Markup("<g><title>{}</title>{}{}</g>").format(title, Markup("").join(parts), label if labelled else "")


def _grid_line(value: int, top: int) -> Markup:
    y = _y(value, top)
    return Markup(
        '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{:,}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 8, y + 4, value)


def _y(value: int, top: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _labelled(index: int, count: int) -> bool:
    return count <= 10 or (count - 1 - index) % 2 == 0


def _round_up(value: int) -> int:
    """The next round number: 2, 4, 6, 10, 20, 40…"""
    unit = 1
    while True:
        for factor in (2, 4, 6, 10):
            if factor * unit >= value:
                return factor * unit
        unit *= 10
