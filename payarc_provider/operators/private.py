"""Arguments that may hold personal data, in a form that neither Airflow nor its plugins store or show.

Airflow stores rendered template fields and the arguments of mapped tasks. OpenLineage sends the ``parameters`` of every
operator, and all of its attributes with ``include_full_task_info``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NamesAndTypes", "Private", "revealed"]


class Private:
    """A value that is neither shown nor serialized."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        """A placeholder."""
        return "(not shown)"


class NamesAndTypes(Private):
    """Parameters or arguments, of which Airflow shows names and types only. It renders the values in them."""

    __slots__ = ()
    template_fields: Sequence[str] = ("value",)

    def serialize(self) -> Any:
        """What Airflow stores and shows: name → type, or a list of types."""
        if isinstance(self.value, Mapping):
            return {str(name): _type(value) for name, value in self.value.items()}
        if isinstance(self.value, list | tuple):
            return [_type(value) for value in self.value]
        return _type(self.value)

    def __repr__(self) -> str:
        """The same as text, which Airflow stores for mapped tasks."""
        return str(self.serialize())


def revealed(value: Any) -> Any:
    """The value itself, if it was private."""
    return value.value if isinstance(value, Private) else value


def _type(value: Any) -> str:
    return f"({type(value).__name__})"
