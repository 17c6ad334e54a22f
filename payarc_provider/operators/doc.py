"""The documentation that a task shows in Airflow's UI when its author wrote none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = ("doc", "doc_md", "doc_json", "doc_yaml", "doc_rst")
_TEXT = """\
### PayArc customers, each exactly once

Creates a PayArc customer for each record that has none yet, and hands the customers' ids downstream.

| | |
|---|---|
| Records from | {source} |
| Key | {key} |
| PayArc connection | {payarc} |
| Ledger's connection | {ledger} |
| Ledger's table | {table} |

**Run it again whenever you like**: retried, cleared or backfilled, it never makes a second customer for a key.

**Refused records** and their reasons are in this task's XCom `rejected`, on the page *PayArc customers* (Airflow 3.1
and newer), and in what `python -m payarc_provider.ledger --ledger-conn-id {conn_id} rejected` prints. Mended at their
source, they are tried again by the next run. The XCom `summary` has the counts.
"""


def task_doc(arguments: Mapping[str, Any]) -> Any:
    """The ``doc_md`` of a task: its author's, none if its author wrote another kind of documentation, else this one.

    :param arguments: the operator's, by name; of a mapped task, those that are the same for all
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
        conn_id=ledger or "CONN",
    )


def _source(arguments: Mapping[str, Any]) -> str:
    conn_id = _code(arguments.get("sql_conn_id"))
    if arguments.get("table") is not None:
        return f"table {_code(arguments['table'])} of {conn_id}"
    if arguments.get("sql") is not None:
        return f"a query on {conn_id}"
    return conn_id if arguments.get("sql_conn_id") else "upstream tasks, through XCom"


def _code(value: Any) -> str:
    """A value as Markdown's code in a table's cell; what is only known when the task is mapped is told so."""
    if value is None:
        return "the default, or one for each mapped task"
    text = value if isinstance(value, str) else ", ".join(str(one) for one in value)
    return f"`{text.replace('`', '').replace('|', '/')}`"
