"""HTML from the templates in this package, and the chart. Everything that comes from a ledger is escaped."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from payarc_provider.ledger.output import HOLDS, age
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger.rows import iso
from payarc_provider.sync.ledger.runs import DagRunCounts

_TEMPLATES = files("payarc_provider.plugins") / "templates"
_STYLE = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_TEMPLATES / "page.js").read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src {_csp_hash(_STYLE)}; script-src {_csp_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def duration(ended: datetime.datetime, began: datetime.datetime) -> str:
    """The time between two moments, to the second; from an hour on, to the minute."""
    seconds = max(0, round((ended - began).total_seconds()))
    if seconds >= 3600:
        return age(ended, began)
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


_environment = Environment(
    loader=PackageLoader("payarc_provider.plugins"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_environment.filters |= {"display_key": display_key, "iso": iso, "age": age, "duration": duration}
_environment.globals |= {"style": Markup(_STYLE), "script": Markup(_SCRIPT), "holds": HOLDS}  # noqa: S704 - our own files


def render(template: str, **context: Any) -> str:
    """Render a template."""
    return _environment.get_template(template).render(context)


@dataclass(frozen=True, slots=True)
class _Size:
    """A chart's size: its own units are pixels at its full width."""

    name: str
    width: int
    height: int
    bars: int


WIDE, NARROW = _Size("wide", 1000, 200, 20), _Size("narrow", 360, 180, 8)
LEFT, TOP, BOTTOM = 64, 12, 26
LABEL = 45  # the width that the date below a bar needs
PARTS = ("created", "updated", "rejected")


def charts(runs: Sequence[DagRunCounts]) -> Markup:
    """A bar chart of DAG runs as SVG, once for wide windows and once for narrow ones; the style shows one of them.

    One bar per run shows the records that it created, updated and rejected, the latest run on the right.

    :param runs: the latest first
    """
    return Markup("").join(_chart(runs[: size.bars], size) for size in (WIDE, NARROW))


def _chart(runs: Sequence[DagRunCounts], size: _Size) -> Markup:
    top = _round_up(max((_height(run) for run in runs), default=0))
    step = (size.width - LEFT) / size.bars
    every = 1 if step >= LABEL else 2
    bars = Markup("").join(
        _bar(run, size, LEFT + index * step, step, top, labelled=(len(runs) - 1 - index) % every == 0)
        for index, run in enumerate(reversed(runs))
    )
    lines = Markup("").join(_grid_line(value, size, top) for value in dict.fromkeys((0, top // 2, top)))
    return Markup(
        '<svg class="chart {name}" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="{name}-title {name}-text">'
        '<title id="{name}-title">Records per DAG run</title>'
        '<desc id="{name}-text">A bar for each of the last {count} DAG runs, the latest on the right. '
        "The table below has the same numbers.</desc>{lines}{bars}</svg>"
    ).format(name=size.name, width=size.width, height=size.height, count=len(runs), lines=lines, bars=bars)


def _height(run: DagRunCounts) -> int:
    return run.created + run.updated + run.rejected


def _bar(run: DagRunCounts, size: _Size, x: float, step: float, top: int, *, labelled: bool) -> Markup:
    parts, below = [], 0
    for name in PARTS:
        count: int = getattr(run, name)
        if count:
            y, bottom = _y(below + count, size, top), _y(below, size, top)
            parts.append(
                Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    name, x + step * 0.15, y, step * 0.7, bottom - y
                )
            )
        below += count
    label = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:%m-%d}</text>').format(
        x + step / 2, size.height - BOTTOM + 16, run.began
    )
    counts = ", ".join(f"{getattr(run, name)} {name}" for name in PARTS)
    title = f"{run.dag_id} {run.run_id}: {counts}"
    return Markup("<g><title>{}</title>{}{}</g>").format(title, Markup("").join(parts), label if labelled else "")


def _grid_line(value: int, size: _Size, top: int) -> Markup:
    y = _y(value, size, top)
    return Markup(
        '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{:,}</text>'
    ).format(LEFT, size.width, y, y, LEFT - 8, y + 4, value)


def _y(value: int, size: _Size, top: int) -> float:
    return size.height - BOTTOM - (size.height - BOTTOM - TOP) * value / top


def _round_up(value: int) -> int:
    """The next round number: 2, 4, 6, 10, 20, 40…"""
    unit = 1
    while True:
        for factor in (2, 4, 6, 10):
            if factor * unit >= value:
                return factor * unit
        unit *= 10
