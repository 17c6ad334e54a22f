"""Changed records reach PayArc, in a real Airflow."""

from __future__ import annotations

import pytest

from payarc_provider.hooks.payarc import PayarcHook

UPDATE = "table='people', sql_conn_id='crm', on_changed='update', version='updated_at'"
COUNTS = ("created", "updated", "known", "stale", "altered", "conflicts", "rejected")


def people(count, first=0, day=1, **fields):
    return [
        {
            "id": number,
            "name": "John Smith",
            "email": f"j{number}@example.com",
            "updated_at": f"2026-01-{day:02} 03:00:00",
            **fields,
        }
        for number in range(first, first + count)
    ]


def names(sandbox):
    return {customer["email"]: customer["name"] for customer in sandbox.customers()}


def counts(task):
    return {name: task.summary[name] for name in COUNTS if task.summary[name]}


def test_the_next_run_changes_the_customers_of_changed_records(airflow, sandbox, any_crm):
    crm = any_crm
    rows = people(6)
    crm.table("people", rows)
    dag = airflow.dag(f"CreateCustomerOperator(task_id='create', {UPDATE})")
    first = airflow.test(dag)["create"]
    assert (counts(first), first.summary["patches"]) == ({"created": 6}, 0)

    newer = people(2, day=2, name="Jane Smith")
    older = people(1, first=2, day=1, name="Old Name") + people(1, first=3, day=1)
    older[0]["updated_at"] = older[1]["updated_at"] = "2025-12-31 03:00:00"
    crm.table("people", newer + older + rows[4:] + people(1, first=6, day=2))
    second = airflow.create(UPDATE)
    assert counts(second) == {"created": 1, "updated": 2, "known": 4, "stale": 1}
    assert (second.summary["posts"], second.summary["patches"], second.summary["changed"]) == (1, 2, 1)
    assert second.ids[:6] == first.ids
    assert [one["status"] for one in second.customers] == ["updated"] * 2 + ["known"] * 4 + ["created"]
    assert [one["key"] for one in second.customers if one["changed"] or one.get("stale")] == ["2"]
    assert names(sandbox) == {
        f"j{number}@example.com": "Jane Smith" if number < 2 else "John Smith" for number in range(7)
    }

    third = airflow.create(UPDATE)
    assert (counts(third), third.summary["requests"]) == ({"known": 7, "stale": 1}, 0)
    stats = sandbox.stats()["requests"]
    assert (stats["POST /customers"], stats["PATCH /customers/{id}"]) == (7, 2)


def test_a_repeated_dag_run_reports_what_it_has_changed(airflow, sandbox, crm):
    crm.table("people", people(3))
    airflow.create(UPDATE)
    crm.table("people", people(1, day=2, name="Jane Smith") + people(2, first=1))
    sandbox.faults([{"kind": "unauthorized", "method": "PATCH", "times": 1}])
    body = f"CreateCustomerOperator(task_id='create', retries=1, retry_delay=timedelta(0), {UPDATE})"
    run = airflow.run(body)
    if run.state != "success":  # some versions' dag.test() does not retry
        pytest.skip("this Airflow's dag.test() does not run a task again")
    assert run["create"].try_number == 2
    assert counts(run["create"]) == {"updated": 1, "known": 2}
    assert names(sandbox)["j0@example.com"] == "Jane Smith"


def test_all_four_arguments_are_templates(airflow, sandbox, crm):
    crm.table("people", people(3, city="Springfield"))
    params = {"mode": "update", "column": "updated_at", "empty": "clear", "conflict": "keep"}
    arguments = (
        "table='people', sql_conn_id='crm', on_changed='{{ params.mode }}', version='{{ params.column }}', "
        "on_empty='{{ params.empty }}', on_conflict='{{ params.conflict }}'"
    )
    ids = airflow.create(arguments, params=params).ids
    sandbox.settings(empty_values="cleared")
    PayarcHook().update_customer(ids[1], {"name": "Edited Name"})
    crm.table("people", people(1, day=2, city=None) + people(2, first=1, day=2, city="Springfield", name="Jane Smith"))
    second = airflow.create(arguments, params=params)
    assert counts(second) == {"updated": 2, "known": 1, "conflicts": 1}
    expected = ["John Smith", "Edited Name", "Jane Smith"]
    assert names(sandbox) == {f"j{number}@example.com": name for number, name in enumerate(expected)}
    [cleared] = [customer for customer in sandbox.customers() if not customer["city"]]
    assert cleared["customer_id"] == ids[0]

    crm.table("people", people(3, day=3, city="Capital City"))
    reported = airflow.create(arguments, params=params | {"mode": "report"})
    assert (counts(reported), reported.summary["changed"], reported.summary["requests"]) == ({"known": 3}, 3, 0)


@pytest.mark.parametrize(
    ("argument", "value", "choices"),
    [
        ("on_changed", "true", '"report", "update"'),
        ("on_empty", None, '"keep", "clear", "reject"'),
        ("on_conflict", "merge", '"overwrite", "keep", "reject"'),
    ],
)
def test_another_choice_is_an_error_that_names_the_argument(airflow, sandbox, crm, said, argument, value, choices):
    crm.table("people", people(1))
    given = f"table='people', sql_conn_id='crm', {argument}='{{{{ params.p }}}}'"
    run = airflow.run(f"CreateCustomerOperator(task_id='create', {given})", params={"p": value})
    assert run["create"].state == "failed"
    assert f"{argument}: give {choices}" in said()
    assert sandbox.stats()["requests"] == {}


def test_a_version_column_that_the_source_lacks_stops_the_task(airflow, sandbox, crm, said):
    crm.table("people", people(1))
    given = "table='people', sql_conn_id='crm', on_changed='update', version='changed_at'"
    run = airflow.run(f"CreateCustomerOperator(task_id='create', {given})")
    assert run["create"].state == "failed"
    assert "version" in said()
    assert "changed_at" in said()
    assert sandbox.stats()["requests"] == {}


def test_each_partition_changes_its_own_customers(airflow, sandbox, crm):
    body = f"""
        CreateCustomerOperator.partial(task_id='create', {UPDATE}).expand(partition=[(0, 3), (1, 3), (2, 3)])
    """
    crm.table("people", people(30))
    assert airflow.run(body).state == "success"
    crm.table("people", people(30, day=2, name="Jane Smith"))
    run = airflow.run(body)
    shares = [run["create", number] for number in range(3)]
    assert run.state == "success"
    assert all(share.summary["updated"] == share.summary["records"] > 0 for share in shares)
    assert sum(share.summary["patches"] for share in shares) == 30
    assert set(names(sandbox).values()) == {"Jane Smith"}


def test_records_from_xcom_with_older_data_change_nothing(airflow, sandbox):
    arguments = "records=extract(), ledger_conn_id='ledger', source='crm', on_changed='update', version='updated_at'"
    airflow.records(people(2, day=5))
    airflow.create(arguments)
    airflow.records(people(2, day=4, name="Old Name"))
    assert counts(airflow.create(arguments)) == {"known": 2, "stale": 2}
    airflow.records(people(2, day=6, name="Jane Smith"))
    assert counts(airflow.create(arguments)) == {"updated": 2}
    assert set(names(sandbox).values()) == {"Jane Smith"}


def test_a_dry_run_counts_what_it_would_update(airflow, sandbox, crm):
    crm.table("people", people(4))
    airflow.create(UPDATE)
    crm.table("people", people(3, day=2, name="Jane Smith") + people(3, first=3))
    before = sandbox.stats()["requests"]
    dry = airflow.create(f"{UPDATE}, dry_run=True")
    would = {name: dry.summary[name] for name in ("would_create", "would_update", "known", "updated", "requests")}
    assert would == {"would_create": 2, "would_update": 3, "known": 1, "updated": 0, "requests": 0}
    assert sandbox.stats()["requests"] == before
    assert set(names(sandbox).values()) == {"John Smith"}
    assert counts(airflow.create(UPDATE)) == {"created": 2, "updated": 3, "known": 1}


def test_changes_are_completed_over_several_deferrals(airflow, sandbox, crm):
    crm.table("people", people(30))
    airflow.create(UPDATE)
    sandbox.settings(rate_limit=12, rate_window=2.0)
    crm.table("people", people(30, day=2, name="Jane Smith") + people(5, first=30))
    arguments = f"{UPDATE}, deferrable=True, defer_after=0.5, concurrency=4, batch_size=10"
    changed = airflow.create(arguments)
    assert counts(changed) == {"created": 5, "updated": 30}
    assert [one["status"] for one in changed.customers] == ["updated"] * 30 + ["created"] * 5
    assert changed.summary["deferrals"] >= 1
    assert [name for name in names(sandbox).values() if name == "Jane Smith"] == ["Jane Smith"] * 30
    assert sandbox.stats()["posts"]["received"] == 35


def test_a_rejected_change_is_reported_and_its_customer_left_out(airflow, sandbox, crm):
    crm.table("people", people(2))
    ids = airflow.create(UPDATE).ids
    sandbox.settings(taken={"name": ["Jane Smith"]})
    crm.table("people", people(1, day=2, name="Jane Smith") + people(1, first=1))
    for new in (1, 0):
        changed = airflow.create(f"{UPDATE}, max_rejected=1")
        assert (changed.ids, counts(changed)) == (ids[1:], {"known": 1, "rejected": 1})
        assert (changed.summary["patches"], changed.summary["rejected_new"]) == (new, new)
        assert [(one["key"], list(one["errors"])) for one in changed.rejected] == [("0", ["name"])]
    sandbox.settings(taken={})
    assert counts(airflow.create(f"{UPDATE}, retry_rejected=True")) == {"updated": 1, "known": 1}
