"""``.partial(records=...)``: the upstream relation that Airflow makes for template fields only."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import XComArg


def relating_records(partial: Any) -> Any:
    """The partial operator, which when expanded becomes downstream of the task that gives its ``records``."""
    records = partial.kwargs.get("records")
    if not isinstance(records, XComArg):
        return partial

    class RelatingRecords(type(partial)):  # type: ignore[misc]
        __slots__ = ()

        def _expand(self, *args: Any, **kwargs: Any) -> Any:
            operator = super()._expand(*args, **kwargs)
            XComArg.apply_upstream_relationship(operator, records)
            return operator

    partial.__class__ = RelatingRecords
    return partial
