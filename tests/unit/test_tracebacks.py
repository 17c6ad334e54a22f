"""Exceptions leave threads, hooks and the operator without frames, and say where they were raised."""

from __future__ import annotations

import json
import traceback

import pytest
import requests_mock as rm

from payarc_provider.api import client, http, reasons
from payarc_provider.exceptions import PayarcConfigError, PayarcError, PayarcRefused
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.ledger import commands
from payarc_provider.ledger.__main__ import main
from payarc_provider.operators.customer import CreateCustomerOperator
from payarc_provider.operators.failures import task_failure
from payarc_provider.sync import id_column, queries, records, runner, sources, state
from payarc_provider.sync.runtime import DaemonPool
from payarc_provider.tracebacks import bare, raise_alone, raised_at, without_frames

SECRET = "Secretname Smith"


def locals_of(error):
    """The local variables of all frames of an exception and of those that led to it, except for the test's own."""
    found, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        found += [
            f"{code.co_name}: {name} = {value!r}"
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if not (code := frame.f_code).co_name.startswith(("test_", "caught", "<lambda>"))
            for name, value in frame.f_locals.items()
        ]
        found.append(repr(error))
        error = error.__cause__ or error.__context__
    return "\n".join(found)


def fail(name):
    values = {"name": name}
    try:
        return values[name]
    except KeyError as error:
        raise PayarcError("could not") from error


def caught(call, *arguments, kind=PayarcError):
    with pytest.raises(kind) as found:
        call(*arguments)
    return found.value


def test_the_test_finds_values():
    assert SECRET in locals_of(caught(fail, SECRET))


def test_a_bare_exception_keeps_only_its_text_and_where_it_was_raised():
    error = bare(caught(fail, SECRET))
    assert SECRET not in locals_of(error)
    (note,) = error.__notes__
    assert note.startswith("Raised at unit/test_tracebacks.py:")
    assert " in fail, " in note
    assert SECRET not in note
    assert bare(error).__notes__ == [note]
    assert raised_at(error) == note


def test_a_function_without_frames_lets_no_argument_out():
    error = caught(without_frames(fail), SECRET)
    assert SECRET not in locals_of(error)


def test_an_exception_raised_alone_does_not_keep_the_one_that_it_replaces():
    def replace():
        try:
            fail(SECRET)
        except PayarcError:
            raise_alone(PayarcError("other"))

    error = caught(replace)
    assert (error.__cause__, error.__context__) == (None, None)


def test_an_exception_crosses_from_a_thread_without_its_frames():
    pool = DaemonPool(1, "test")
    future = pool.submit(fail, SECRET)
    error = future.exception(5)
    pool.shutdown()
    assert isinstance(error, PayarcError)
    assert SECRET not in locals_of(error)
    assert " in fail" in error.__notes__[0]


# ---- the hook -------------------------------------------------------------------------------------------------------

CUSTOMERS = "https://testapi.payarc.net/v1/customers"
CALLS = {
    "create_customer": lambda hook: hook.create_customer({"name": SECRET, "email": "secret@example.com"}),
    "create_customer, invalid": lambda hook: hook.create_customer({"name": SECRET * 9}),
    "update_customer": lambda hook: hook.update_customer("c1", {"name": SECRET}),
    "get_customer": lambda hook: hook.get_customer("c1"),
    "delete_customer": lambda hook: hook.delete_customer("c1"),
    "list_customers": lambda hook: list(hook.list_customers()),
    "token": lambda hook: hook.token(refresh=True),
}
ANSWERS = {
    "rejected": {"status_code": 422, "json": {"status": "error", "message": SECRET, "errors": {"name": [SECRET]}}},
    "unauthorized": {"status_code": 401, "json": {"error": "Unauthenticated."}},
    "failed": {"status_code": 500, "text": SECRET},
    "lost": {"exc": ConnectionResetError(SECRET)},
    "unreadable": {"status_code": 200, "text": SECRET},
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("call", CALLS)
def test_no_frame_of_a_failed_call_holds_a_value_or_the_token(call, answer, monkeypatch):
    connection = {"conn_type": "payarc", "password": "Secrettoken"}
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps(connection))
    with rm.Mocker() as payarc:
        payarc.register_uri(rm.ANY, rm.ANY, **ANSWERS[answer])
        hook = PayarcHook()
        if call == "token":
            hook.token()
            monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps({**connection, "password": "Secret token"}))
        error = caught(CALLS[call], hook)
    assert "secret" not in locals_of(error).lower()


def test_a_list_fails_at_its_second_page_without_the_customers_of_the_first(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps({"conn_type": "payarc", "password": "Secrettoken"}))
    first = {
        "data": [{"customer_id": "c1", "name": SECRET}],
        "meta": {"pagination": {"current_page": 1, "total_pages": 2}},
    }
    with rm.Mocker() as payarc:
        payarc.get(CUSTOMERS, [{"json": first}, {"status_code": 500}])
        customers = PayarcHook().list_customers()
        assert next(customers)["name"] == SECRET
        error = caught(next, customers)
    assert SECRET not in locals_of(error)


# ---- the task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyError(SECRET), ValueError(f"{SECRET} is wrong"), UnicodeDecodeError("utf-8", b"Secret\xff", 6, 7, "x")]
)
def test_an_unexpected_exception_becomes_its_class_and_its_place(error):
    def stumble(_name):
        raise error

    failure = task_failure(caught(stumble, SECRET, kind=type(error)))
    assert type(failure) is PayarcError
    assert str(failure).startswith(f"Unexpected {type(error).__name__}. Run again, nothing is sent twice")
    assert "unit/test_tracebacks.py:" in str(failure)
    assert " in stumble" in str(failure)
    assert "Secret" not in locals_of(failure)


@pytest.mark.parametrize("error", [PayarcError("x"), PayarcConfigError("x"), SystemExit(1), KeyboardInterrupt()])
def test_other_exceptions_keep_their_kind_and_text(error):
    def stumble(_name):
        raise error

    failure = task_failure(caught(stumble, SECRET, kind=type(error)))
    assert isinstance(failure, type(error))
    assert str(failure) == str(error)
    assert SECRET not in locals_of(failure)
    assert " in stumble" in failure.__notes__[0]


@pytest.mark.parametrize("name", ["get_openlineage_facets_on_start", "execute"])
def test_what_airflow_calls_raises_no_text_of_unknown_origin(name, monkeypatch):
    def stumble(*_arguments, **_more):
        raise ValueError(SECRET)

    for module, attribute in (("openlineage", "lineage_of"), ("task", "TaskRun")):
        try:
            monkeypatch.setattr(f"payarc_provider.operators.{module}.{attribute}", stumble)
        except ImportError:  # without the OpenLineage provider
            pytest.importorskip("airflow.providers.openlineage")
    operator = CreateCustomerOperator(task_id="create", table="people", sql_conn_id="crm")
    call = getattr(operator, name)
    error = caught(call) if name != "execute" else caught(lambda: operator.resume({}))
    assert str(error).startswith("Unexpected ValueError. ")
    assert SECRET not in locals_of(error)


def test_the_command_line_prints_no_text_of_unknown_origin(monkeypatch, capsys):
    def stumble(_given):
        raise ValueError(SECRET)

    monkeypatch.setattr(commands, "run", stumble)
    assert main(["--ledger-conn-id", "crm", "status"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("Unexpected ValueError. Please report this line. Raised at ")
    assert SECRET not in said.out + said.err


# ---- reprs ----------------------------------------------------------------------------------------------------------

HOLD_VALUES = [
    client.PayarcClient,
    client.CustomerPage,
    http.Request,
    http.Response,
    http.Transport,
    reasons.TextFilter,
    PayarcHook,
    id_column.MissingId,
    queries.Query,
    records.Record,
    records.StoredRows,
    runner._Runner,
    sources.ListSource,
    state.Claim,
    state.Update,
]


@pytest.mark.parametrize("kind", HOLD_VALUES)
def test_what_holds_values_or_the_token_has_a_blind_repr(kind):
    assert kind.__repr__ is object.__repr__


def test_a_rejection_keeps_its_reasons():
    refused = caught(PayarcHook._checked, {"name": "J"}, kind=PayarcRefused)
    assert task_failure(refused) is refused
    assert refused.errors == {"name": ["must have at least 3 characters (it has 1): fix it at the source"]}
