"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
# The reference is read from the code, which imports Airflow, which makes itself a home.
os.environ.setdefault("AIRFLOW_HOME", str(HERE / "_build" / "airflow"))
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")

from payarc_provider import __version__  # noqa: E402

project = "airflow-provider-payarc"
author = "the project's contributors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"PayArc for Airflow {release}"
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # parts of the README are shown below other headings than there

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

nitpicky = True
# Airflow's and Python's own names have no page here; nor have modules of this package that are no public interface.
nitpick_ignore_regex = [
    ("py:.*", r"(airflow|collections|datetime|os|starlette|typing)\b.*"),
    ("py:.*", r"(payarc_provider\.(api|sync|hooks\.connection)\b.*)"),
    ("py:class", r"(Any|Iterable|Iterator|Literal|Mapping|PathLike|Sequence|XComArg)\b.*"),
    ("py:class", r"PayarcClient|PayarcConnection|RateLimiter|TokenClaims"),
]
