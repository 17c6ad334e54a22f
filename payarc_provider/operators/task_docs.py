"""The documentation that Airflow's UI shows for a task whose author wrote none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payarc_provider.operators.options import is_output

_KINDS = ("doc", "doc_md", "doc_json", "doc_yaml", "doc_rst")
_TEXT = """\
### PayArc customers, each created exactly once

Creates a PayArc customer for every record that does not have one yet and passes the customer ids downstream.

| | |
|---|---|
| Records from | {source} |
| Key | {key} |
| PayArc connection | {payarc} |
| Ledger connection | {ledger} |
| Ledger table | {table} |

**Safe to run again**: a retried, cleared or backfilled task never creates a second customer for a key.

**Rejected records** are in the log (the first ten) and, unless `push_ids=False`, in this task's XCom `rejected`, each
with its reasons. Fix them; the next run tries them again. The *PayArc customers* page (Airflow 3.1 and newer) and
`python -m payarc_provider.ledger --ledger-conn-id {conn_id} rejected` list them too, except those without a usable key
and those whose key already belongs to another record or customer. The XCom `summary` has the counts.
"""


def task_doc(arguments: Mapping[str, Any]) -> Any:
    """The ``doc_md`` of a task: the author's own, None if the author used another kind of documentation, else ours.

    :param arguments: the operator's arguments by name; for a mapped task, those of ``partial``
    """
    if any(arguments.get(kind) for kind in _KINDS):
        return arguments.get("doc_md")
    ledger = arguments.get("ledger_conn_id") or arguments.get("sql_conn_id")
    return _TEXT.format(
        source=_source(arguments),
        key=_code(arguments.get("key")),
        payarc=_code(arguments.get("payarc_conn_id")),
        table=_code(arguments.get("ledger_table")),
        ledger=_code(ledger),
        conn_id=ledger if isinstance(ledger, str) else "CONN",
    )


def _source(arguments: Mapping[str, Any]) -> str:
    conn_id = _code(arguments.get("sql_conn_id"))
    if arguments.get("table") is not None:
        return f"table {_code(arguments['table'])} in {conn_id}"
    if arguments.get("sql") is not None:
        return f"a query on {conn_id}"
    if "python_callable" in arguments:
        return f"the function {_code(arguments['python_callable'].__name__)}"
    return conn_id if arguments.get("sql_conn_id") else "upstream tasks, through XCom"


def _code(value: Any) -> str:
    """A value as Markdown code that is safe in a table cell."""
    if value is None:
        return "default, or set for each mapped task"
    if is_output(value):
        return "set by another task, or for each mapped task group"
    text = value if isinstance(value, str) else ", ".join(str(one) for one in value)
    return f"`{text.replace('`', '').replace('|', '/')}`"
