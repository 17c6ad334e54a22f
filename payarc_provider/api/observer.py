"""Who is told when something begins and ends: nobody by default, a tracer where Airflow brings one.

What is told are counts, codes and endpoints, never a key, a value or a token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

Facts = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """Something that is going on."""

    def note(self, facts: Facts) -> None:
        """What has become known of it."""


class Observer(Protocol):
    """Is told of what goes on, from any thread; must not raise."""

    def span(self, name: str, facts: Facts) -> contextlib.AbstractContextManager[Span]:
        """Something that goes on for as long as the context; an exception that leaves it is its failure."""


class _Nothing:
    def note(self, facts: Facts) -> None:
        """Goes nowhere."""


class Silent:
    """Tells nobody."""

    _NOTHING = contextlib.nullcontext(_Nothing())

    def span(self, name: str, facts: Facts) -> contextlib.AbstractContextManager[Span]:
        """Goes nowhere."""
        return self._NOTHING


SILENT = Silent()
