"""No record value and no token in logs, rendered fields, errors or the ledger, whatever happens to the records."""

from __future__ import annotations

import io
import json
import logging

import pytest
from airflow import __version__ as airflow_version
from airflow_logs import without_internal_messages
from airflow_tables import RENDERED_FIELDS, XCOMS

from payarc_provider.sandbox import make_token

PEOPLE = 14
LONG = "Secretdescriptionof"


def secrets(number):
    """One person's values, each recognizable anywhere."""
    return {
        "name": f"Secretname{chr(97 + number)} Smith",
        "email": f"secretmail{number}@example.com",
        "phone": f"202555{1000 + number}",
        "description": f"{LONG} {number} that has no room left",
        "address_1": f"{number} Secret Street",
        "city": f"Secretcity{chr(97 + number)}",
        "zip": f"{71000 + number}-{5000 + number}",
        "send_email_address": f"secretinvoice{number}@example.com",
    }


def people():
    """People of every kind: valid, invalid by each rule, rejected by PayArc, and repeated."""
    rows = [{"id": number, **secrets(number)} for number in range(PEOPLE)]
    rows[1]["phone"] += "5551"
    rows[2]["email"] = "secretmail2" + "x" * 40 + "@example.com"
    rows[3]["zip"] = "Secretzip"
    rows[4]["name"] = "Secretname" * 6
    rows[5]["description"] = rows[5]["description"] * 2
    del rows[6]["id"]
    rows[7]["id"] = 7.5
    rows.append({**rows[8], "name": "Secretname Other"})
    for row in rows[10:]:
        row["description"] = "Secretshort"  # leaves room for the reference
    return rows


@pytest.fixture
def values(sandbox):
    """Every string that must not appear anywhere."""
    values = {value for row in people() for name, value in row.items() if name != "id"}
    return values | {value.split("@")[0] for value in values if "@" in value} | {sandbox.token, sandbox.token[-20:]}


@pytest.fixture
def said(said):
    """As everywhere, without what Airflow tells itself."""
    return lambda: without_internal_messages(said())


@pytest.fixture
def whispered():
    """A function that returns all log messages of this package and its HTTP library, at any level."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("payarc_provider", "urllib3")}
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield heard.getvalue
    for logger, level in loggers.items():
        logger.removeHandler(handler)
        logger.setLevel(level)


def found(values, text):
    """The values that occur in the text, regardless of case."""
    text = text.casefold()
    return sorted(value for value in values if value.casefold() in text)


def everything_goes_wrong(sandbox):
    def of(number):
        mail = f"secretmail{number}@example.com"
        return {"match": {"email": mail}, "body": mail}

    sandbox.settings(taken={"email": ["secretmail9@example.com"], "phone": ["2025551010"]})
    sandbox.faults(
        [
            {"kind": "lost_after", **of(11)},
            {"kind": "garbage_before", **of(12)},
            {"kind": "status_after", **of(13)},
        ]
    )


CREATE = "CreateCustomerOperator(task_id='create', {source}, ledger_conn_id='ledger', settle=2, lease=20)"


@pytest.fixture
def impatient(sandbox, monkeypatch):
    """A connection whose requests may take two seconds, so that look-ups happen soon."""
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", sandbox.connection_json(timeout=2))


def check(airflow, run, said, whispered, values, ledger_file, sandbox):
    create = run["create"]
    assert create.state == "failed"
    assert create.summary["unknown_outcomes"] >= 3, "the faults have happened"
    assert create.summary["rejected"] == 10
    assert found(values, str(create.rejected)) == []
    assert "but max_rejected is" in said()
    assert found(values, said()) == []
    assert '"POST /v1/customers HTTP/1.1" 201' in whispered()
    assert found(values, whispered()) == []
    rendered = airflow.metadata(RENDERED_FIELDS)
    assert "payarc_default" in rendered
    assert found(values, rendered) == []
    ledger = airflow.dump(ledger_file)
    assert ledger.count("rejected") >= 6
    assert found(values, ledger) == []
    assert found(values, str(sandbox.customers())), "the values have reached PayArc"


def test_the_test_captures_all_logs(airflow, said):
    airflow.run(
        """
        @task
        def talk():
            import logging, sys
            print("printed Secretname")
            print("complained Secretname", file=sys.stderr)
            logging.getLogger("payarc_provider.sync").warning("logged Secretname")
            CreateCustomerOperator(task_id="x", table="t", sql_conn_id="c").log.info("operated %s", "Secretname")

        talk()
        """
    )
    for how in ("printed", "complained", "logged", "operated"):
        assert f"{how} Secretname" in said()


def test_records_from_xcom_leave_no_value(airflow, sandbox, impatient, whispered, said, values, ledger_file):
    everything_goes_wrong(sandbox)
    airflow.records(people())
    run = airflow.run(CREATE.format(source="records=extract()"))
    check(airflow, run, said, whispered, values, ledger_file, sandbox)
    assert found(values, airflow.metadata(XCOMS)), "Airflow stores what `extract` returned"
    assert found(values, airflow.metadata(without=(XCOMS,))) == []


def test_records_from_a_table_leave_no_value_not_even_in_xcom(
    airflow, sandbox, impatient, whispered, said, values, ledger_file, crm
):
    everything_goes_wrong(sandbox)
    rows = people()
    rows[7]["id"] = None
    crm.table("people", rows)
    before = found(values, airflow.metadata(XCOMS))
    run = airflow.run(CREATE.format(source="table='people', sql_conn_id='crm'"))
    check(airflow, run, said, whispered, values, ledger_file, sandbox)
    assert found(values, airflow.metadata(XCOMS)) == before


def test_mapped_records_leave_no_value_in_rendered_fields_or_logs(airflow, sandbox, said, values, ledger_file):
    rows = [{"id": number, **secrets(number)} for number in range(6)]
    airflow.records([rows[:3], rows[3:]])
    run = airflow.run(
        "CreateCustomerOperator.partial(task_id='create', ledger_conn_id='ledger').expand(records=extract())"
    )
    assert run.state == "success"
    assert found(values, said()) == []
    assert found(values, airflow.metadata(RENDERED_FIELDS)) == []
    assert found(values, airflow.dump(ledger_file)) == []


@pytest.mark.parametrize("form", ["records=\"{{ ti.xcom_pull(task_ids='extract') | tojson }}\"", "records=extract()"])
def test_rendered_records_are_stored_nowhere(airflow, said, values, form):
    airflow.records([{"id": number, **secrets(number)} for number in range(3)])
    run = airflow.run(f"extract() >> CreateCustomerOperator(task_id='create', {form}, ledger_conn_id='ledger')")
    assert len(run["create"].ids) == 3
    assert found(values, airflow.metadata(RENDERED_FIELDS)) == []
    assert found(values, said()) == []


@pytest.mark.parametrize("kind", ["unauthorized", "forbidden", "redirect", "not_found"])
def test_a_stopped_run_logs_no_value_and_no_token(airflow, sandbox, said, values, kind):
    sandbox.faults([{"kind": kind, "times": None, "headers": {"X-Echo": "secretmail1@example.com"}}])
    airflow.records([{"id": number, **secrets(number)} for number in range(3)])
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    assert run["create"].state == "failed"
    assert found(values, said()) == []


def test_a_source_error_logs_no_value_and_no_parameter(airflow, sandbox, crm, said, values):
    crm.table("people", [{"id": 1, **secrets(1)}])
    mark = "?" if crm.url.get_backend_name() == "sqlite" else "%s"
    run = airflow.run(
        "CreateCustomerOperator(task_id='create', sql_conn_id='crm', "
        f"sql='SELECT no_such_function(name) AS name, id FROM people WHERE email = {mark}', "
        "parameters=['Secretparameter'])"
    )
    assert run["create"].state == "failed"
    assert "could not be read" in said()
    assert found({*values, "Secretparameter"}, said()) == []


def test_a_ledger_error_logs_no_value(airflow, sandbox, said, values, ledger_file):
    airflow.records([{"id": number, **secrets(number)} for number in range(3)])
    ledger_file.write_text("this is no database, but it is long enough to be taken for one" * 100)
    run = airflow.run("CreateCustomerOperator(task_id='create', records=extract(), ledger_conn_id='ledger')")
    assert run["create"].state == "failed"
    assert "ledger" in said()
    assert found(values, said()) == []


def test_the_token_is_masked_in_task_logs(airflow, sandbox, said, monkeypatch):
    if airflow_version.startswith(("2.", "3.0.", "3.1.")):
        pytest.skip("what dag.test() of these versions prints is not masked in full")
    token = make_token("1")
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", sandbox.connection_json(token))
    run = airflow.run(
        """
        @task
        def careless():
            import logging
            from payarc_provider.hooks.payarc import PayarcHook
            hook = PayarcHook()
            logging.getLogger("careless").warning("the token is %s", hook.token())
            logging.getLogger("careless").warning("the parts are %s", {"password": hook.token()})

        careless()
        """
    )
    assert run.state == "success"
    assert "the token is" in said()
    assert token not in said()
    assert json.dumps(token)[1:-1][-40:] not in said()
