"""The ``records`` argument: its rows, and the upstream tasks that produce them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import XComArg

from payarc_provider.exceptions import PayarcConfigError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context


def resolve_records(operator: BaseOperator, records: Any, context: Context) -> list[Any]:
    """The rows that ``records`` stands for.

    A string is rendered as a template only if it was written in the DAG file; what comes from XCom is data.

    :raises PayarcConfigError: if the result is not a list of rows
    """
    resolve = getattr(records, "resolve", None)  # an XComArg, or an argument of a mapped task group
    value = resolve(context) if callable(resolve) else records
    if isinstance(value, str) and value is records and _written_in_dag(operator, context):
        value = operator.render_template(value, context)
    if isinstance(value, str):
        value = _from_json(value)
    return _rows(value)


def _written_in_dag(operator: BaseOperator, context: Context) -> bool:
    """Whether the argument stands in the DAG file. The value of an expanded argument came from data."""
    task = context["dag"].task_dict.get(operator.task_id, operator)
    partial: Mapping[str, Any] | None = getattr(task, "partial_kwargs", None)
    return partial is None or "records" in partial


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise PayarcConfigError(
            "records: the text is not valid JSON. Use the filter tojson in the template, or set "
            "render_template_as_native_obj=True on the DAG"
        ) from None


def _rows(value: Any) -> list[Any]:
    if value is None:
        raise PayarcConfigError(
            "records: the upstream task returned nothing. Return a list, which may be empty if there is nothing to do"
        )
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise PayarcConfigError(
            f"records: got {type(value).__name__}. Pass a list of dicts, an upstream task's output, or a template that "
            "renders to JSON"
        )
    rows: list[Any] = []
    for row in value:
        # The output of a mapped upstream task is a list of lists.
        rows.extend(row) if isinstance(row, list | tuple) else rows.append(row)
    return rows


def set_upstream_of_partial(partial: Any) -> Any:
    """Make ``.partial(records=task.output).expand(…)`` a downstream task of that task.

    Airflow itself derives this relation from template fields only.
    """
    records = partial.kwargs.get("records")
    if not isinstance(records, XComArg):
        return partial

    class PartialWithUpstream(type(partial)):  # type: ignore[misc]
        __slots__ = ()

        def _expand(self, *args: Any, **kwargs: Any) -> Any:
            operator = super()._expand(*args, **kwargs)
            XComArg.apply_upstream_relationship(operator, records)
            return operator

    partial.__class__ = PartialWithUpstream
    return partial
