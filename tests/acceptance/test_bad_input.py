"""Bad input in a real Airflow: bad records are rejected by field, good ones are created, and the task fails."""

from __future__ import annotations

import re

import pytest

from payarc_provider.sandbox import make_token

GOOD = [{"id": number, "name": "John Smith", "email": f"good{number}@example.com"} for number in range(10)]
CREATE = "CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger'{more})"

# Bad record → (its key in `rejected`, the field at fault, what the reason says)
BAD = {
    "no key": ({"name": "John Smith"}, None, "id", "is missing: give every record a key"),
    "null key": ({"id": None, "name": "John Smith"}, None, "id", "is missing: give every record a key"),
    "float key": ({"id": 5.5, "name": "John Smith"}, None, "id", "is a floating-point number"),
    "whole float key": ({"id": 5.0, "name": "John Smith"}, None, "id", "cast it to an integer or text"),
    "phone of 14 digits": (
        {"id": "b", "phone": "12345678901234"},
        "b",
        "phone",
        "must have at most 11 digits (it has 14)",
    ),
    "email of 50": (
        {"id": "b", "email": "e" * 38 + "@example.com"},
        "b",
        "email",
        "must have at most 40 characters (it has 50)",
    ),
    "name of 2": ({"id": "b", "name": "Jo"}, "b", "name", "must have at least 3 characters (it has 2)"),
    "name of 51": ({"id": "b", "name": "J" * 51}, "b", "name", "must have at most 50 characters (it has 51)"),
    "zip of letters": ({"id": "b", "name": "John Smith", "zip": "ABCDE"}, "b", "zip", "only digits and hyphens"),
    "country of 1": (
        {"id": "b", "name": "John Smith", "country": "U"},
        "b",
        "country",
        "must have at least 2 characters (it has 1)",
    ),
    "nothing to send": ({"id": "b", "shoe_size": 44}, "b", "record", "has no value in any PayArc field"),
    "no mapping": ("John Smith", None, "record", "is a str, not a mapping"),
    "rejected by PayArc": ({"id": "b", "email": "taken@example.com"}, "b", "email", "has already been taken"),
    "same key, other data": ({"id": 3, "name": "Mary Jones"}, "3", "id", "earlier record of this run has the same key"),
}


def create(airflow, records, more=""):
    airflow.records(records)
    return airflow.run(CREATE.format(more=f", {more}" if more else ""))["create"]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_is_rejected_by_field_and_all_good_ones_are_created(airflow, sandbox, what):
    record, key, field, reason = BAD[what]
    sandbox.settings(taken={"email": ["taken@example.com"]})
    task = create(airflow, [*GOOD[:5], record, *GOOD[5:]])
    assert task.state == "failed"
    (rejected,) = task.rejected
    assert (rejected["key"], list(rejected["errors"])) == (key, [field])
    (text,) = rejected["errors"][field]
    assert reason in text
    assert [one["key"] for one in task.customers] == [str(number) for number in range(10)]
    made = {customer["email"]: customer["customer_id"] for customer in sandbox.customers()}
    assert task.ids == [made[good["email"]] for good in GOOD]
    assert len(made) == 10


def test_each_bad_record_is_rejected_for_its_own_reason(airflow, sandbox):
    sandbox.settings(taken={"email": ["taken@example.com"]})
    bad = [
        {**record, "id": f"b{place}"} if isinstance(record, dict) and record.get("id") == "b" else record
        for place, (record, *_) in enumerate(BAD.values())
    ]
    task = create(airflow, [*GOOD, *bad])
    assert task.state == "failed"
    assert [list(one["errors"]) for one in task.rejected] == [[field] for _, _, field, _ in BAD.values()]
    assert len(task.ids) == len(sandbox.customers()) == 10
    assert (task.summary["rejected"], task.summary["created"]) == (len(BAD), 10)


def test_all_errors_of_a_record_are_reported(airflow):
    task = create(airflow, [{"id": 1, "name": "Jo", "phone": "123456789012", "zip": "A"}])
    (rejected,) = task.rejected
    assert set(rejected["errors"]) == {"name", "phone", "zip"}


def test_rejected_records_fail_the_task_without_a_retry(airflow, sandbox):
    airflow.records([*GOOD, {"id": "b", "name": "Jo"}])
    run = airflow.run(CREATE.format(more=", retries=2, retry_delay=timedelta(0)"))
    assert (run.state, run["create"].state, run["create"].try_number) == ("failed", "failed", 1)
    assert len(run["create"].ids) == 10


def test_the_failure_and_the_log_have_the_reasons_and_the_first_keys(airflow, said):
    create(airflow, [*GOOD, *({"id": f"b{number}", "name": "Jo"} for number in range(15))])
    lines = said().splitlines()
    (failure,) = {line for line in lines if "but max_rejected is" in line}
    assert "Rejected 15 of 25 records, but max_rejected is 0" in failure
    assert 'XCom "rejected"' in failure
    reason = "15 records: name must have at least 3 characters (keys b0, b1, b2, b3, b4, …)"
    assert reason in lines
    assert any(f"Rejected {reason}" in line for line in lines)


UNSTORED = [{"name": "John Smith"}, {"id": 1, "name": "Mary Jones", "email": "other@example.com"}]


@pytest.mark.parametrize(
    ("bad", "more", "where"),
    [
        (UNSTORED, "", '; the XCom "rejected" lists all'),
        (UNSTORED, "push_ids=False", "the log has the reasons, and with push_ids=True the XCom"),
        (UNSTORED, "do_xcom_push=False", "the log has the reasons, and with do_xcom_push=True the XCom"),
    ],
)
def test_the_failure_says_only_where_the_reasons_are(airflow, ledger_file, said, bad, more, where):
    create(airflow, [*GOOD, *bad], more)
    (failure,) = {line for line in said().splitlines() if "but max_rejected is" in line}
    assert where in failure
    assert "ledger" not in failure.partition("Error: ")[2], "it keeps none of these"
    assert "rejected" not in airflow.dump(ledger_file, "payarc_customers")


@pytest.mark.parametrize(
    ("allowed", "state"),
    [("0", "failed"), ("1", "failed"), ("2", "success"), ("0.1", "failed"), ("0.17", "success"), ("1.0", "success")],
)
def test_max_rejected_is_a_number_or_a_share_of_the_records(airflow, sandbox, allowed, state):
    task = create(airflow, [*GOOD, *({"id": f"b{n}", "name": "Jo"} for n in range(2))], f"max_rejected={allowed}")
    assert task.state == state
    assert (len(task.ids), len(task.rejected), task.summary["rejected"]) == (10, 2, 2)


def test_downstream_tasks_do_not_run_after_too_many_rejections(airflow):
    airflow.records([*GOOD, {"id": "b", "name": "Jo"}])
    run = airflow.run(
        """
        create = CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')

        @task
        def charge(ids):
            return len(ids)

        charge(create.output)
        """
    )
    assert (run["create"].state, run["charge"].state) == ("failed", "upstream_failed")
    assert len(run["create"].ids) == 10, "the ids are pushed nevertheless"


def test_known_rejections_can_be_tolerated_and_new_ones_still_count(airflow, sandbox):
    sandbox.settings(taken={"email": ["taken@example.com"]})
    bad = [{"id": "b", "name": "Jo"}, {"id": "c", "email": "taken@example.com"}]
    tolerating = "tolerate_known_rejected=True"
    first = create(airflow, [*GOOD, *bad], tolerating)
    assert (first.state, first.summary["rejected_new"]) == ("failed", 2)
    second = create(airflow, [*GOOD, *bad], tolerating)
    assert (second.state, second.summary["rejected"], second.summary["rejected_new"]) == ("success", 2, 0)
    assert len(second.rejected) == 2, "known rejections are still reported"
    third = create(airflow, [*GOOD, *bad, {"id": "d", "name": "Ed"}], tolerating)
    assert (third.state, third.summary["rejected_new"]) == ("failed", 1)
    assert create(airflow, [*GOOD, *bad]).state == "failed", "without the argument, all rejections count"


def test_a_rejected_record_is_created_once_its_data_is_fixed(airflow, sandbox):
    assert create(airflow, [{"id": "b", "name": "Jo"}]).state == "failed"
    fixed = create(airflow, [{"id": "b", "name": "Joe"}])
    assert (fixed.state, fixed.summary["created"]) == ("success", 1)


def test_an_invalid_token_claims_nothing_and_the_error_is_one_line(airflow, sandbox, connect, ledger_file, said):
    connect("payarc_default", sandbox.connection_json("not-a-token-of-payarc"))
    task = create(airflow, GOOD)
    assert task.state == "failed"
    (sentence,) = set(re.findall(r"PayArc does not accept the access token \(401\).*", said()))
    assert "connection's password" in sentence
    assert "no running event loop" not in said(), "the error is not chained to an unrelated one"
    assert "not-a-token-of-payarc" not in said()
    assert sandbox.stats()["posts"]["received"] == 0
    assert airflow.dump(ledger_file, "payarc_customers") == ""


def test_a_valid_token_works_after_an_invalid_one(airflow, sandbox, connect):
    for wrong in ("not-a-token-of-payarc", make_token("999", expires_in=-60)):
        connect("payarc_default", sandbox.connection_json(wrong))
        assert create(airflow, GOOD).state == "failed"
    connect("payarc_default", sandbox.connection_json())
    assert len(create(airflow, GOOD).ids) == 10


def test_an_unknown_extra_or_a_missing_connection_fails_before_anything_is_done(airflow, sandbox, connect, said):
    connect("payarc_default", sandbox.connection_json(enviroment="live"))
    assert create(airflow, GOOD).state == "failed"
    assert 'unknown name "enviroment"; did you mean "environment"' in said()
    assert create(airflow, GOOD, "payarc_conn_id='nowhere'").state == "failed"
    assert sandbox.stats()["requests"] == {}


def test_settle_shorter_than_the_timeout_is_rejected_with_both_numbers(airflow, sandbox, said):
    assert create(airflow, GOOD, "settle=10").state == "failed"
    assert "settle: 10 s is shorter than the timeout of connection payarc_default, 30 s" in said()
    assert create(airflow, GOOD, "lease=40").state == "failed"
    assert "lease: 40 s does not cover" in said()
    assert sandbox.stats()["requests"] == {}


def test_an_error_of_the_ledgers_database_names_its_connection(airflow, sandbox, connect, said, tmp_path):
    connect("broken", conn_type="sqlite", host=str(tmp_path))  # a folder
    airflow.records(GOOD)
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='broken')")
    assert run["create"].state == "failed"
    assert "PayarcLedgerError: Connection broken: the ledger's database reported" in said()
    assert sandbox.stats()["requests"] == {}


def test_a_ledger_connection_that_is_no_database_is_rejected(airflow, sandbox, connect, said):
    connect("web", conn_type="payarc", host="https://example.com")
    airflow.records(GOOD)
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='web')")
    assert run["create"].state == "failed"
    assert 'ledger_conn_id: the connection web has the type "payarc", which is not a SQL database' in said()


def test_a_missing_column_is_named_together_with_the_existing_ones(airflow, sandbox, crm, said):
    crm.table("people", GOOD)
    run = airflow.run("CreateCustomerOperator(task_id='create', table='people', sql_conn_id='crm', key='uid')")
    assert run["create"].state == "failed"
    assert 'key: the source has no column "uid"; its columns are id, name, email' in said()
    assert sandbox.stats()["posts"]["received"] == 0


def test_lookalike_columns_and_personal_keys_cause_warnings(airflow, said):
    create(airflow, [{"id": "john@example.com", "name": "John Smith", "e_mail": "john@example.com"}])
    assert 'Column "e_mail" is not sent' in said()
    assert 'If it is "email", map it in `fields`' in said()
    assert "1 key looks like an email address" in said()
    assert "john@example.com" not in said()
