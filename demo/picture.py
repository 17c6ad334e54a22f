"""Draw the output of the demo for the README: ``make demo | .venv/bin/python demo/picture.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"
LAST = "The ledger remembers"  # the README needs nothing from this line on
WIDTH, LINE, MARGIN = 780, 19, 18
STYLE = "font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def draw(output: str) -> str:
    """Return the output as an SVG that looks like a terminal."""
    shown = ["$ make demo", *output.partition(LAST)[0].rstrip().splitlines()]
    height = 2 * MARGIN + LINE * len(shown)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#1b2430"/>',
            f'<g style="{STYLE}">',
            *(
                f'<text x="{MARGIN}" y="{MARGIN + LINE * number - 5}" fill="{_color(line)}">{_text(line)}</text>'
                for number, line in enumerate(shown, start=1)
                if line
            ),
            "</g>",
            "</svg>",
            "",
        ]
    )


def _text(line: str) -> str:
    return escape(line).replace("  ", "\u00a0\u00a0")  # SVG viewers collapse white space


def _color(line: str) -> str:
    if line.startswith("$"):
        return "#8fb8de"
    return "#9be3b0" if "created" in line or "POSTs" in line else "#d5dde6"


if __name__ == "__main__":
    PICTURE.write_text(draw(sys.stdin.read()))
