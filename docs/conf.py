"""The configuration of Sphinx, which builds these pages: `make docs`."""

from __future__ import annotations

import html
import os
import sys
from pathlib import Path
from typing import Any

from docutils import nodes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
# autodoc imports the code, and with it Airflow, which creates its home directory.
os.environ.setdefault("AIRFLOW_HOME", str(HERE / "_build" / "airflow"))
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")

from payarc_provider import __version__  # noqa: E402

project = "airflow-provider-payarc"
author = "the project's contributors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"PayArc for Airflow {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included parts of the README have headings of another level

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

nitpicky = True
# Names of Airflow and Python, and modules that are not public, have no page here.
nitpick_ignore_regex = [
    ("py:.*", r"(airflow|collections|datetime|os|starlette|typing)\b.*"),
    ("py:.*", r"(payarc_provider\.(api|sync|hooks\.connection)\b.*)"),
    ("py:class", r"(Any|Iterable|Iterator|Literal|Mapping|PathLike|Sequence|XComArg)\b.*"),
    ("py:class", r"Identity|PayarcClient|PayarcConnection|RateLimiter|TokenClaims"),
]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", _describe)


def _describe(app: Any, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Give a page a description for search engines: its first paragraph."""
    first = next(doctree.findall(nodes.paragraph), None) if doctree else None
    if first is not None:
        context["metatags"] += f'<meta name="description" content="{html.escape(first.astext())}">'
