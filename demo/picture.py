"""Draw the output of the demo for the README: ``.venv/bin/python demo/run.py | .venv/bin/python demo/picture.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

import story

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"
COLORS = {"blue": "#8fb8de", "red": "#f2877c", "green": "#9be3b0", "gray": "#93a1b0", None: "#d5dde6"}
WIDTH, LINE, MARGIN = 820, 19, 18
STYLE = "font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def draw(output: str) -> str:
    """Return the output as an SVG that looks like a terminal."""
    shown = ["$ make demo", *output.partition(story.LAST)[0].rstrip().splitlines()]
    height = 2 * MARGIN + LINE * len(shown)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#1b2430"/>',
            f'<g style="{STYLE}">',
            *(
                f'<text x="{MARGIN}" y="{MARGIN + LINE * number - 5}" fill="{COLORS[story.color(line)]}">'
                f"{_text(line)}</text>"
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


if __name__ == "__main__":
    PICTURE.write_text(draw(sys.stdin.read()))
