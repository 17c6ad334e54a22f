"""The promises hold on every supported Airflow: sources, XComs and failures, with every ledger database.

Each case is a DAG that a real Airflow runs against a sandbox over HTTP, and a count at that sandbox. ``make compat``
runs this with the built wheel on every version; ``PAYARC_TORTURE=1`` takes each shape and failure with every source.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import payarc_provider
from payarc_provider.sandbox.profiles import PROFILES

COUNT = 12
DATABASES = ("sqlite", "postgresql", "mariadb")
PLAIN = ("xcom", "table", "sql", "template")
MAPPED = ("mapped", "partitions")
IMPATIENT = "settle=3, lease=5"  # with a timeout of 2 s, so that look-ups happen soon


def dag_text(source, crm, *options):
    """A DAG whose task ``create`` reads all people from this source."""
    mark = "?" if crm.url.get_backend_name() == "sqlite" else "%s"
    given = {
        "xcom": "records=extract(), ledger_conn_id='crm'",
        "template": "records=\"{{ ti.xcom_pull(task_ids='extract') | tojson }}\", ledger_conn_id='crm'",
        "table": "table='people', sql_conn_id='crm'",
        "sql": f"sql='SELECT * FROM people WHERE id >= {mark}', parameters=[0], sql_conn_id='crm'",
        "mapped": "ledger_conn_id='crm'",
        "partitions": "table='people', sql_conn_id='crm'",
    }
    arguments = ", ".join(("task_id='create'", given[source], *options))
    if source == "mapped":
        return f"CreateCustomerOperator.partial({arguments}).expand(records=extract('parts'))"
    if source == "partitions":
        return f"CreateCustomerOperator.partial({arguments}).expand(partition=[(0, 3), (1, 3), (2, 3)])"
    return f"{'extract() >> ' if source == 'template' else ''}CreateCustomerOperator({arguments})"


def with_every_database(sources=PLAIN):
    """Parametrize with each ledger database and one source, or all sources."""
    each = [(database, sources[place % len(sources)]) for place, database in enumerate(DATABASES)]
    if os.environ.get("PAYARC_TORTURE"):
        each = [(database, source) for database in DATABASES for source in sources]
    return pytest.mark.parametrize(("any_crm", "source"), each, indirect=["any_crm"])


@pytest.fixture
def people(airflow, any_crm):
    """The rows of each source; call it to replace those of ``crm``."""

    def make(rows):
        any_crm.table("people", rows)
        airflow.records(rows)
        airflow.records([rows[:5], rows[5:]], "parts")
        return rows

    return make([{"id": number, "name": "John Smith", "email": f"j{number}@example.com"} for number in range(COUNT)])


@pytest.fixture
def impatient(sandbox, connect):
    """A connection with a timeout of two seconds."""
    connect("payarc_default", sandbox.connection_json(timeout=2))


def with_every_payarc(function):
    """Run a test with a table in SQLite and each profile of the sandbox, with windows of a second."""
    function = pytest.mark.parametrize("payarc_sandbox", PROFILES, indirect=True)(function)
    return pytest.mark.parametrize("any_crm", ["sqlite"], indirect=True)(function)


def pushed(run, key):
    """The list that the task, or all its mapped copies, pushed under a key."""
    copies = sorted(place for place in run.tasks if place[0] == "create")
    return [one for place in copies for one in run[place].xcom(key)]


def prove(run, sandbox, rows):
    """Assert that each row has one customer of its own and that there are no others."""
    emails = {customer["customer_id"]: customer["email"] for customer in sandbox.customers()}
    customers = pushed(run, "customers")
    assert {one["key"]: emails[one["customer_id"]] for one in customers} == {str(r["id"]): r["email"] for r in rows}
    assert pushed(run, "return_value") == [one["customer_id"] for one in customers]
    assert len(emails) == len(customers) == len(rows)


def test_the_intended_airflow_and_package_are_installed():
    meant = os.environ.get("PAYARC_AIRFLOW")
    if meant is None:
        pytest.skip("only `make compat` says which Airflow is meant")
    assert version("apache-airflow") == meant
    assert Path(payarc_provider.__file__).is_relative_to(sys.prefix), "the built wheel, not the checkout"


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["payarc_provider.hooks.payarc", "unusual_prefix_0123456789_payarc_from_table"])
def test_a_deprecation_warning_from_our_own_code_is_an_error(category, module):
    with pytest.raises(category):
        warnings.warn_explicit("this will go", category, "some.py", 1, module=module)


@pytest.mark.parametrize("source", PLAIN + MAPPED)
def test_each_record_is_created_once_and_known_afterwards(airflow, sandbox, any_crm, people, source):
    dag = airflow.dag(dag_text(source, any_crm))
    first = airflow.test(dag)
    assert first.state == "success"
    prove(first, sandbox, people)
    assert sandbox.stats()["posts"]["received"] == COUNT

    again = airflow.test(dag)
    assert again.state == "success"
    prove(again, sandbox, people)
    assert pushed(again, "return_value") == pushed(first, "return_value")
    assert sandbox.stats()["posts"]["received"] == COUNT
    assert {one["status"] for one in pushed(again, "customers")} == {"known"}


@with_every_database()
def test_the_xcoms_have_ids_customers_rejections_and_counts(airflow, sandbox, any_crm, people, source):
    sandbox.settings(taken={"email": ["j3@example.com"]})
    task = airflow.run(dag_text(source, any_crm, "max_rejected=1"))["create"]
    assert task.state == "success"
    assert task.ids == [one["customer_id"] for one in task.customers]
    assert [one["key"] for one in task.customers] == [str(number) for number in range(COUNT) if number != 3]
    assert all(set(one) == {"key", "customer_id", "status", "changed"} for one in task.customers)
    assert task.rejected == [{"key": "3", "errors": {"email": ["The email has already been taken."]}}]
    counts = {name: task.summary[name] for name in ("records", "created", "known", "rejected", "posts")}
    assert counts == {"records": COUNT, "created": COUNT - 1, "known": 0, "rejected": 1, "posts": COUNT}


@with_every_database()
def test_push_ids_false_pushes_only_the_summary(airflow, sandbox, any_crm, people, source):
    task = airflow.run(dag_text(source, any_crm, "push_ids=False"))["create"]
    assert [task.xcom(key) for key in ("return_value", "customers", "rejected")] == [None, None, None]
    assert task.summary["created"] == len(sandbox.customers()) == COUNT


@with_every_database()
def test_a_downstream_task_maps_over_groups_of_ids(airflow, sandbox, any_crm, people, source):
    run = airflow.run(
        f"""
        @task
        def count(customer_ids):
            return len(customer_ids)

        {dag_text(source, any_crm, "group_ids=5")}
        count.expand(customer_ids=dag.get_task("create").output)
        """
    )
    assert run.state == "success"
    assert [len(group) for group in run["create"].ids] == [5, 5, 2]
    assert [run["count", place].xcom() for place in range(3)] == [5, 5, 2]
    assert sorted(one for group in run["create"].ids for one in group) == sorted(
        one["customer_id"] for one in sandbox.customers()
    )


@with_every_database()
def test_lost_responses_and_error_pages_are_looked_up_without_duplicates(
    airflow, sandbox, any_crm, people, impatient, source
):
    kinds = ("lost_after", "lost_before", "status_after", "status_before", "html_after", "cut_after")
    sandbox.faults([{"kind": kind, "match": {"email": f"j{place}@example.com"}} for place, kind in enumerate(kinds)])
    run = airflow.run(dag_text(source, any_crm, IMPATIENT))
    assert run.state == "success"
    prove(run, sandbox, people)
    assert run["create"].summary["unknown_outcomes"] >= len(kinds), "the faults did happen"
    assert {one["status"] for one in run["create"].customers} == {"created"}


@with_every_database()
def test_a_run_waits_for_the_rate_limit(airflow, sandbox, any_crm, people, source):
    sandbox.settings(rate_limit=5, rate_window=1)
    run = airflow.run(dag_text(source, any_crm))
    assert run.state == "success"
    prove(run, sandbox, people)


@with_every_database()
def test_a_request_is_sent_again_after_a_429(airflow, sandbox, any_crm, people, source):
    sandbox.faults([{"kind": "rate_limited", "skip": 4, "times": 2}])
    run = airflow.run(dag_text(source, any_crm))
    assert run.state == "success"
    prove(run, sandbox, people)
    assert run["create"].summary["rate_limited"] == 2


@with_every_database()
def test_too_many_rejections_fail_the_task_but_all_others_are_created(airflow, sandbox, any_crm, people, source):
    sandbox.settings(taken={"email": ["j3@example.com", "j7@example.com"]})
    run = airflow.run(dag_text(source, any_crm, "max_rejected=1", "retries=3", "retry_delay=timedelta(0)"))
    assert (run.state, run["create"].state, run["create"].try_number) == ("failed", "failed", 1)
    assert [one["key"] for one in run["create"].rejected] == ["3", "7"]
    prove(run, sandbox, [row for row in people if row["id"] not in (3, 7)])


@with_every_database()
def test_max_new_stops_the_run_before_anything_is_sent(airflow, sandbox, any_crm, people, source):
    assert airflow.run(dag_text(source, any_crm, "max_new=7"))["create"].state == "failed"
    assert sandbox.customers() == []
    prove(airflow.run(dag_text(source, any_crm)), sandbox, people)


@with_every_database()
def test_airflow_retries_a_task_that_fails_halfway(airflow, sandbox, any_crm, people, source):
    sandbox.faults([{"kind": "unauthorized", "skip": 6}])
    run = airflow.run(dag_text(source, any_crm, "concurrency=1", "retries=1", "retry_delay=timedelta(0)"))
    assert (run.state, run["create"].try_number) == ("success", 2)
    prove(run, sandbox, people)


@with_every_database()
def test_a_killed_task_continues_where_it_was(airflow, sandbox, any_crm, people, impatient, source):
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    dag = airflow.dag(dag_text(source, any_crm, IMPATIENT, "concurrency=2", "batch_size=5"))
    program = Path(__file__).with_name("run_killed.py")
    command = [sys.executable, str(program), dag.fileloc, when.isoformat(), "after_response", "7"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-5000:] + killed.stderr[-5000:]
    assert 0 < len(sandbox.customers()) < COUNT, "killed in mid-run"

    run = airflow.test(dag, when)
    assert run.state == "success"
    prove(run, sandbox, people)


@with_every_payarc
def test_every_possible_payarc_creates_each_record_once_and_changes_it(airflow, sandbox, any_crm, people):
    sandbox.settings(rate_window=1)
    dag = airflow.dag(dag_text("table", any_crm, "on_changed='update'"))
    prove(airflow.test(dag), sandbox, people)

    any_crm.table("people", [row | {"name": "Jane Smith"} for row in people])
    again = airflow.test(dag)

    assert again.state == "success"
    prove(again, sandbox, people)
    assert {customer["name"] for customer in sandbox.customers()} == {"Jane Smith"}
    assert sandbox.stats()["posts"]["created"] == COUNT


@with_every_payarc
def test_with_no_possible_payarc_does_a_lost_response_make_a_duplicate(airflow, sandbox, any_crm, people, impatient):
    sandbox.settings(rate_window=1)
    sandbox.seed({"email": f"old{number}@example.com", "created_at": 1_700_000_000 + number} for number in range(30))
    sandbox.faults([{"kind": "lost_after", "match": {"email": f"j{place}@example.com"}} for place in (2, 5, 8)])
    run = airflow.run(dag_text("table", any_crm, IMPATIENT))

    emails = [customer["email"] for customer in sandbox.customers()[30:]]
    assert len(set(emails)) == len(emails)
    if sandbox.settings()["list_order"] == "newest":
        assert run.state == "success"
        assert set(emails) == {row["email"] for row in people}
    else:  # such a list proves nothing, so the run stops and leaves these records to a person
        assert run.state == "failed"
