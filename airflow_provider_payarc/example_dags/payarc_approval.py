"""
### Plan, approve, apply

Every night, a dry run plans what there is to do: which customers to create and which fields to change. Somebody
approves the plan in Airflow, under *Required Actions*. Only then is it carried out, and exactly that plan: if the
people have changed in the meantime, the last task fails before its first request.

The guards stop the first task, before anybody is asked, if the table looks wrong: too few people, or too many changes.

Needs the connections `payarc_default` (type PayArc) and `crm` (SQLite, PostgreSQL, MySQL or MariaDB), and Airflow 3.1
or newer, which introduced approvals, with `apache-airflow-providers-standard` 1.13 or newer, in which they can time
out. On older versions, this file defines no DAG.
"""

from __future__ import annotations

import datetime
import importlib.metadata

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import dag
from packaging.version import Version

from payarc_provider.operators.customer import CreateCustomerOperator

PEOPLE = {
    "table": "people",
    "sql_conn_id": "crm",
    "fields": {"name": "full_name", "email": "email", "phone": "phone"},
    "on_changed": "update",
    "max_rejected": 10,
    "min_records": 2,
    "max_changed": 0.5,  # of the people
}
QUESTION = """
{% set summary = ti.xcom_pull("plan_customers", key="summary") %}
Create {{ summary.would_create }} and change {{ summary.would_update }} of {{ summary.records }} customers?
{{ summary.rejected }} records are rejected.

| key | action | fields |
|---|---|---|
{% for step in ti.xcom_pull("plan_customers", key="plan")[:50] -%}
| {{ step.key }} | {{ step.action }} | {{ step.fields | join(", ") }} |
{% endfor %}
"""


def has_approvals():
    if Version(Version(airflow_version).base_version) < Version("3.1"):
        return False
    return Version(importlib.metadata.version("apache-airflow-providers-standard")) >= Version("1.13")


if has_approvals():
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    @dag(
        schedule="0 2 * * *",
        start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        catchup=False,
        is_paused_upon_creation=True,  # as it is only an example
        max_active_runs=1,
        doc_md=__doc__,
        tags=["payarc"],
    )
    def payarc_approval():
        plan = CreateCustomerOperator(task_id="plan_customers", dry_run=True, **PEOPLE)
        approve = ApprovalOperator(
            task_id="approve",
            subject="PayArc customers of {{ ds }}",
            body=QUESTION,
            response_timeout=datetime.timedelta(hours=12),
        )
        apply = CreateCustomerOperator(
            task_id="apply_plan",
            approved_plan="{{ ti.xcom_pull('plan_customers', key='summary')['plan'] }}",
            retries=3,
            **PEOPLE,
        )
        plan >> approve >> apply

    payarc_approval()
