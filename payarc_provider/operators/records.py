"""The ``records`` argument: from what the DAG's author wrote to a list of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from payarc_provider.exceptions import PayarcConfigError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context


def resolve_records(operator: BaseOperator, given: Any, context: Context) -> list[Any]:
    """The rows that ``records`` stands for.

    A text is rendered only where the DAG's author wrote it; what comes out of XCom, mapped or not, is data.

    :raises PayarcConfigError: when it is no list
    """
    resolve = getattr(given, "resolve", None)  # an XComArg, or an argument of a mapped task group
    value = resolve(context) if callable(resolve) else given
    if isinstance(value, str) and value is given and _written_in_dag(operator, context):
        value = operator.render_template(value, context)
    if isinstance(value, str):
        value = _from_json(value)
    return _rows(value)


def _written_in_dag(operator: BaseOperator, context: Context) -> bool:
    """Whether the argument stands in the DAG file; the value of a mapped one (``.expand``) came from data."""
    task = context["dag"].task_dict.get(operator.task_id, operator)
    partial: Mapping[str, Any] | None = getattr(task, "partial_kwargs", None)
    return partial is None or "records" in partial


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise PayarcConfigError(
            "records: the text is not JSON; let the template give a JSON list, or a list with "
            "render_template_as_native_obj=True"
        ) from None


def _rows(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [value]
    if value is None:
        raise PayarcConfigError(
            "records: the upstream task pushed nothing; let it return a list, empty if there is nothing to do"
        )
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        try:
            value = list(value) if not isinstance(value, str | bytes) else None
        except TypeError:
            value = None
        if value is None:
            raise PayarcConfigError(
                "records: give a list of dicts, an upstream task's output, or a template that gives JSON"
            )
    rows: list[Any] = []
    for row in value:
        # A mapped upstream task's output is a list of lists.
        rows.extend(row) if isinstance(row, list | tuple) else rows.append(row)
    return rows
