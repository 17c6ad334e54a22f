"""Spans: what the client and the engine report to a tracer, if there is one.

Attributes are counts, codes and endpoints, never a key, a value or a token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

__all__ = ["NO_TRACER", "Attributes", "Span", "Tracer"]

Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """An operation in progress."""

    def set_attributes(self, attributes: Attributes) -> None:
        """Add attributes that are known only now."""


class Tracer(Protocol):
    """Starts spans, from any thread; must not raise."""

    def span(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """A span as long as the context; an exception that leaves the context marks it as failed."""


class _NoSpan:
    def set_attributes(self, attributes: Attributes) -> None:
        """Do nothing."""


class _NoTracer:
    def span(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """A span that is not recorded."""
        return contextlib.nullcontext(_NoSpan())


#: Traces nothing.
NO_TRACER: Tracer = _NoTracer()
