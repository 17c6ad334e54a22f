"""What happens to known customers when a DAG, a task or a connection is renamed, and both ways to go on."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from typing import Any

import pytest

from payarc_provider.ledger.__main__ import main

PEOPLE = [{"id": 1, "name": "John Smith"}, {"id": 2, "name": "Mary Jones"}]
CHANGED = [{"id": 1, "name": "John Smith-Jones"}, {"id": 2, "name": "Mary Jones"}]
RECORDS = "records=extract(), ledger_conn_id='crm'"
TABLE = "table='people', sql_conn_id='crm'"
SQL = "sql='SELECT id, name FROM people', sql_conn_id='crm'"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task that creates customers, in a DAG."""

    reads: str
    dag: str = "nightly"
    group: str | None = None
    name: str = "create"

    def run(self, airflow: Any, more: str = "") -> Any:
        create = f"CreateCustomerOperator(task_id='{self.name}', {self.reads}{more})"
        body = f"with TaskGroup('{self.group}'):\n    {create}" if self.group else create
        imports = "from airflow.providers.common.compat.sdk import TaskGroup\n"
        run = airflow.test(airflow.dag(imports + body, dag_id=self.dag))
        return run[f"{self.group}.{self.name}" if self.group else self.name]


# What is renamed → (before, after, the source before, the source after)
RENAMED = {
    "DAG with records": (Task(RECORDS), Task(RECORDS, "daily"), "task nightly.create", "task daily.create"),
    "DAG with sql": (Task(SQL), Task(SQL, "daily"), "query of nightly.create on crm", "query of daily.create on crm"),
    "task with records": (Task(RECORDS), Task(RECORDS, name="c"), "task nightly.create", "task nightly.c"),
    "task with sql": (
        Task(SQL),
        Task(SQL, name="c"),
        "query of nightly.create on crm",
        "query of nightly.c on crm",
    ),
    "task group": (
        Task(RECORDS, group="sync"),
        Task(RECORDS, group="people"),
        "task nightly.sync.create",
        "task nightly.people.create",
    ),
    "task moved into a group": (
        Task(SQL),
        Task(SQL, group="sync"),
        "query of nightly.create on crm",
        "query of nightly.sync.create on crm",
    ),
    "connection of a table": (
        Task(TABLE),
        Task(TABLE.replace("crm", "shop")),
        "table people of crm",
        "table people of shop",
    ),
    "connection of sql": (
        Task(SQL),
        Task(SQL.replace("crm", "shop")),
        "query of nightly.create on crm",
        "query of nightly.create on shop",
    ),
    "table to sql": (Task(TABLE), Task(SQL), "table people of crm", "query of nightly.create on crm"),
    "sql to table": (Task(SQL), Task(TABLE), "query of nightly.create on crm", "table people of crm"),
    "table to records": (Task(TABLE), Task(RECORDS), "table people of crm", "task nightly.create"),
    "name with its schema": (
        Task(TABLE),
        Task(TABLE.replace("people", "SCHEMA.people")),
        "table people of crm",
        "table SCHEMA.people of crm",
    ),
}
ON_EVERY_DATABASE = ("connection of a table", "table to sql", "name with its schema")


@pytest.mark.parametrize(
    ("any_crm", "renamed"),
    [("sqlite", one) for one in RENAMED]
    + [(kind, one) for kind in ("postgresql", "mariadb") for one in ON_EVERY_DATABASE],
    indirect=["any_crm"],
)
def test_after_a_rename_a_changed_record_is_rejected_with_remedies_that_work(
    airflow, sandbox, any_crm, connect, capsys, renamed
):
    before, after, old, new = RENAMED[renamed]
    schema = {"sqlite": "main", "postgresql": "public"}.get(any_crm.url.get_backend_name(), any_crm.url.database)
    after, new = dataclasses.replace(after, reads=after.reads.replace("SCHEMA", schema)), new.replace("SCHEMA", schema)
    connect("shop", os.environ["AIRFLOW_CONN_CRM"])

    def now(rows):
        airflow.records(rows)
        any_crm.table("people", rows)

    def goes_on(task):
        assert task.state == "success"
        assert [(one["status"], one["changed"]) for one in task.customers] == [("known", True), ("known", False)]
        assert task.ids == ids

    now(PEOPLE)
    ids = before.run(airflow).ids
    assert len(ids) == 2

    now(CHANGED)
    failed = after.run(airflow)
    assert (failed.state, failed.ids) == ("failed", ids[1:])
    (rejected,) = failed.rejected
    (text,) = rejected["errors"]["key"]
    assert f"set source={json.dumps(old)}" in text
    assert f"rename-source {shlex.quote(old)} {shlex.quote(new)}" in text
    assert "different people" in text
    assert "ledger_table" in text

    goes_on(after.run(airflow, f", source={old!r}"))
    assert main(["--ledger-conn-id", "crm", "rename-source", old, new]) == 0
    assert "2 rows were renamed" in capsys.readouterr().out
    goes_on(after.run(airflow))
    assert sandbox.stats()["posts"]["received"] == len(sandbox.customers()) == 2


def test_unchanged_records_go_on_after_a_rename_with_a_warning(airflow, sandbox, crm, said):
    crm.table("people", PEOPLE)
    ids = Task(TABLE).run(airflow).ids
    task = Task(SQL).run(airflow)
    assert (task.state, task.ids) == ("success", ids)
    assert "2 known records are from another source, so changes of their data will be rejected" in said()


def test_two_dags_with_one_source_work_side_by_side(airflow, sandbox, crm, said):
    nightly, by_hand = Task(TABLE, "nightly"), Task(SQL, "by_hand")
    crm.table("people", PEOPLE)
    ids = nightly.run(airflow, ", source='crm people'").ids
    crm.table("people", [*CHANGED, {"id": 3, "name": "Zoe Park"}])
    task = by_hand.run(airflow, ", source='crm people'")
    assert [(one["status"], one["changed"]) for one in task.customers] == [
        ("known", True),
        ("known", False),
        ("created", False),
    ]
    assert task.ids[:2] == ids
    assert nightly.run(airflow, ", source='crm people'").ids == task.ids
    assert "another source" not in said()


def test_two_crms_that_both_count_from_1_never_share_a_customer(airflow, sandbox, crm):
    crm.table("people", [{"id": 1, "name": "John Smith"}])
    crm.table("shops", [{"id": 1, "name": "Donut Shop"}])
    Task(TABLE).run(airflow, ", source='people'")
    task = Task(TABLE.replace("people", "shops")).run(airflow, ", source='shops'")
    assert (task.state, task.ids) == ("failed", [])
    assert len(sandbox.customers()) == 1
