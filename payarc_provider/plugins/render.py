"""HTML from the templates beside this module; whatever comes from a ledger is escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from payarc_provider.ledger.show import HOLDS, age, iso
from payarc_provider.sync.keys import display_key

_TEMPLATES = files("payarc_provider.plugins") / "templates"
_STYLE = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_TEMPLATES / "page.js").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_environment = Environment(
    loader=PackageLoader("payarc_provider.plugins"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_environment.filters |= {"shown": display_key, "iso": iso, "age": age}
_environment.globals |= {"style": Markup(_STYLE), "script": Markup(_SCRIPT), "holds": HOLDS}  # noqa: S704 - our own files


def render(template: str, **context: Any) -> str:
    """The page."""
    return _environment.get_template(template).render(context)
