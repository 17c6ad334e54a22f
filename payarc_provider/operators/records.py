"""The ``records`` argument: the shapes it may have, its rows, and the upstream tasks that produce them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import XComArg

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.operators.failures import fails_as_task
from payarc_provider.operators.options import is_output, is_template
from payarc_provider.operators.private import revealed
from payarc_provider.tracebacks import raise_alone

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

_SCALARS = (str, int, float, type(None))
"""Among dicts, these are rejected one by one. Anything else in the list may hold several records."""


def check_records(records: Any) -> None:
    """Check what a DAG file itself holds as ``records``. Text and task outputs are checked when the task runs.

    :raises PayarcConfigError: if it has another shape, or holds templates or outputs that would not be replaced
    """
    if records is None or isinstance(records, str) or is_output(records) or _is_list_of_outputs(records):
        return
    parts = records if isinstance(records, list) else ()
    values = [value for part in parts for value in (part.values() if isinstance(part, Mapping) else (part,))]
    if any(map(is_output, values)):
        raise PayarcConfigError(
            "records: a list of dicts cannot hold task outputs. Build the list in a task and pass that task's output, "
            "or pass a list of outputs only"
        )
    if any(map(is_template, values)):
        raise PayarcConfigError(
            "records: templates inside a list are not rendered. Build the list in a task and pass its output, or pass "
            "one template that gives JSON: records=\"{{ [{'id': params.id}] | tojson }}\""
        )
    _rows(records)


def check_mapped_records(records: Any) -> None:
    """Check what a DAG file itself holds as ``records`` of a mapped task.

    :raises PayarcConfigError: if it has another shape, or holds records, which Airflow would store in its database
    """
    check_records(records)
    is_data = isinstance(records, list) and not _is_list_of_outputs(records)
    if records and (is_data or (isinstance(records, str) and not is_template(records))):
        raise PayarcConfigError(
            "records: Airflow would store the records in this mapped task's arguments, and show them. Build them in a "
            "task, and pass or map over its output"
        )


def resolve_records(operator: BaseOperator, records: Any, context: Context) -> list[Any]:
    """The rows that ``records`` stands for.

    A string is rendered as a template only if it was written in the DAG file; what comes from XCom is data.

    :raises PayarcConfigError: if the result is not a list of dicts
    """
    if _is_list_of_outputs(records):
        outputs = ((output.resolve(context), _tasks_of(output)) for output in records)
        return [row for value, tasks in outputs for row in _rows(value, tasks, is_part=True)]
    if is_output(records):
        return _rows(records.resolve(context), _tasks_of(records))
    if isinstance(records, str) and _is_written_in_dag(records, operator, context):
        return _rows(operator.render_template(records, context))
    return _rows(records)


@fails_as_task
def returned_records(value: Any, task: str) -> list[Any]:
    """The rows that a task's own function has returned. Text is data, and not rendered.

    :raises PayarcConfigError: if it is not a list of dicts
    """
    return _rows(value, task)


def _is_list_of_outputs(records: Any) -> bool:
    return isinstance(records, list) and bool(records) and all(map(is_output, records))


def _tasks_of(output: Any) -> str:
    return " and ".join(dict.fromkeys(task.task_id for task, _ in output.iter_references()))


def _is_written_in_dag(records: str, operator: Any, context: Context) -> bool:
    """Whether the DAG file holds this text as an argument. In a mapped task, the argument may be data."""
    task: Any = context["dag"].task_dict.get(operator.task_id, operator)
    if getattr(task, "partial_kwargs", None) is None:
        return True
    return records in [text for text in written_in_dag(task) if isinstance(text, str)]


def written_in_dag(mapped: Any) -> Iterator[Any]:
    """What the DAG file holds as ``records`` of a mapped task, in ``partial`` and in ``expand``."""
    yield mapped.partial_kwargs.get("records")
    expanded = mapped.expand_input.value
    if isinstance(expanded, Mapping):
        expanded = expanded.get("records")
        yield from expanded if isinstance(expanded, list | tuple) else (expanded,)
    elif isinstance(expanded, list | tuple):
        yield from (arguments.get("records") for arguments in expanded if isinstance(arguments, Mapping))


# ---- shapes -------------------------------------------------------------------------------------------------------


def _rows(value: Any, task: str = "", *, is_part: bool = False) -> list[Any]:
    """The rows of a value.

    :param task: the task that returned it; empty if none did
    :param is_part: one of several outputs, which may be a single dict
    """
    if isinstance(value, str):
        value = _from_json(value, task)
    if is_part and isinstance(value, Mapping):
        return [value]
    if _is_lazy(value):  # the outputs of a mapped task, or a transformed output
        return [row for output in value for row in _rows(output, task, is_part=True)]
    if not isinstance(value, list) or not _holds_dicts(value):
        raise _wrong_shape(value, task)
    return value


def _holds_dicts(rows: list[Any]) -> bool:
    others = [row for row in rows if not isinstance(row, Mapping)]
    return len(others) < max(1, len(rows)) and all(isinstance(row, _SCALARS) for row in others)


def _is_lazy(value: Any) -> bool:
    return isinstance(value, Sequence) and type(value).__module__.partition(".")[0] == "airflow"


def _from_json(text: str, task: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.strip() == "None":
            return None
        raise_alone(
            PayarcConfigError(
                f"records: the text {_from(task)}is not valid JSON. Use the filter tojson in the template, or set "
                "render_template_as_native_obj=True on the DAG"
            )
        )


def _from(task: str) -> str:
    return f"from {task} " if task else ""


def _wrong_shape(value: Any, task: str) -> PayarcConfigError:
    if value is None:
        who = task or "the upstream task"
        return PayarcConfigError(
            f"records: {who} returned nothing. Return a list, which may be empty if there is nothing to do"
        )
    if isinstance(value, list):
        odd = [row for row in value if not isinstance(row, Mapping)]
        row = next((row for row in odd if not isinstance(row, _SCALARS)), odd[0])
        got, remedy = f"a list with a {type(row).__name__} in it", _conversion_of_row(row)
    else:
        got, remedy = f"a {type(value).__name__}", _conversion(value)
    return PayarcConfigError(f"records: got {got} {_from(task)}instead of a list of dicts. {remedy}")


_ROW_CONVERSIONS = {
    "_asdict": "row._asdict()",
    "model_dump": "row.model_dump()",
    "__dataclass_fields__": "dataclasses.asdict(row)",
}
"""What named tuples, Pydantic models and dataclasses have, and what makes each a dict."""
_CONVERSIONS = {
    "to_pylist": "Write table.to_pylist()",
    "to_dicts": "Write frame.to_dicts()",
    "columns": 'Write frame.to_dict("records")',
    **{name: f"Write [{conversion}]" for name, conversion in _ROW_CONVERSIONS.items()},
    "decode": "Write json.loads(value)",
    "keys": 'Pass [record] if it is one record, or the list inside it: response["rows"]',
    "count": "Write list(rows); if they are rows of a query: [dict(zip(columns, row)) for row in rows]",
    "__iter__": "Write list(rows), with a dict for each record",
}
"""What Arrow's tables, Polars' and pandas' frames, rows, bytes, dicts, tuples and iterators have → what to write."""


def _conversion(value: Any) -> str:
    """What to write instead of a value that is not a list."""
    known = (conversion for name, conversion in _CONVERSIONS.items() if hasattr(value, name))
    return next(known, "Return one dict for each record, in a list")


def _conversion_of_row(row: Any) -> str:
    """What to write if this is in the list."""
    for name, conversion in _ROW_CONVERSIONS.items():
        if hasattr(row, name):
            return f"Write [{conversion} for row in rows]"
    if isinstance(row, str):
        return "Write [json.loads(text) for text in texts] if each is JSON"
    if isinstance(row, Sequence) and not any(isinstance(part, Mapping) for part in row):
        return "Write [dict(zip(columns, row)) for row in rows], or let this task read the query: sql=..."
    if isinstance(row, Collection):
        return "Make the parts lists of dicts and join them: [row for part in parts for row in part]"
    return "Make each record a dict of field names and values"


# ---- upstream tasks -----------------------------------------------------------------------------------------------


def set_upstream_of_partial(partial: Any, names: Set[str]) -> Any:
    """Make ``.partial(records=task.output).expand(…)`` a downstream task of that task.

    Airflow itself derives this relation from template fields only.

    :param names: the arguments that may be outputs of tasks and are not template fields of their own
    """

    class PartialWithUpstream(type(partial)):  # type: ignore[misc]
        __slots__ = ()

        def _expand(self, *args: Any, **kwargs: Any) -> Any:
            operator = super()._expand(*args, **kwargs)
            for records in written_in_dag(operator):
                check_mapped_records(records)
            for name in names & operator.partial_kwargs.keys():
                set_upstream(operator, operator.partial_kwargs[name])
            return operator

    partial.__class__ = PartialWithUpstream
    return partial


def set_upstream(operator: Any, argument: Any) -> None:
    """Make the operator a downstream task of the tasks whose outputs the argument is or contains."""
    if isinstance(argument, list) and argument and isinstance(argument[0], Mapping):
        return  # records, which contain no outputs
    for task, _ in XComArg.iter_xcom_references(revealed(argument)):
        if task.task_id not in operator.upstream_task_ids:
            operator.set_upstream(task)
