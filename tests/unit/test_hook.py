"""PayarcHook: its connection, its token and its calls."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import time

import pytest
import requests

from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConfigError,
    PayarcConnectionFailed,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnexpectedAnswer,
    PayarcUnknownOutcome,
)
from payarc_provider.hooks import payarc
from payarc_provider.hooks.payarc import PayarcHook

TEST = "https://testapi.payarc.net/v1"
LIVE = "https://api.payarc.net/v1"
CUSTOMERS = f"{TEST}/customers"
JOHN = {"name": "John Smith", "email": "john@example.com"}


@pytest.fixture
def connect(monkeypatch):
    """Set the connection ``payarc_default`` and return a hook for it."""

    def set_up(password="token-1", extra=None, **fields):
        parts = {"conn_type": "payarc", "password": password, **fields}
        if extra is not None:
            parts["extra"] = extra
        monkeypatch.setenv("AIRFLOW_CONN_PAYARC_DEFAULT", json.dumps(parts))
        return PayarcHook()

    return set_up


@pytest.fixture
def hook(connect):
    return connect()


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that a hook logs."""
    heard = []

    class Log:
        def warning(self, text, *values):
            heard.append(text % values)

    monkeypatch.setattr(PayarcHook, "log", Log())
    return heard


def jwt(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


def answer(**customer):
    return {"data": {"object": "customer", "customer_id": "c1", **customer}}


def listed(*customers, total=None, page=1, pages=1):
    pagination = {"total": total if total is not None else len(customers), "current_page": page, "total_pages": pages}
    return {"data": list(customers), "meta": {"pagination": pagination}}


# ---- calls ---------------------------------------------------------------------------------------------------------


def test_create_customer_sends_one_post_and_returns_the_customer(hook, requests_mock):
    requests_mock.post(CUSTOMERS, status_code=201, json=answer(**JOHN))
    created = hook.create_customer({**JOHN, "phone": 5417543010, "city": None}, idempotency_key="k-1")
    assert created["customer_id"] == "c1"
    assert created["name"] == "John Smith"
    (request,) = requests_mock.request_history
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Idempotency-Key"] == "k-1"
    assert request.text == "name=John+Smith&email=john%40example.com&phone=5417543010"


def test_the_id_is_also_read_from_the_name_in_the_guide(hook, requests_mock):
    requests_mock.post(CUSTOMERS, status_code=200, json={"data": {"id": "KPxMADVnxMV4nNjp", "real_id": 110}})
    assert hook.create_customer(JOHN)["customer_id"] == "KPxMADVnxMV4nNjp"


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"name": "Jo"}, "name"),
        ({"phone": "12345678901234"}, "phone"),
        ({"emial": "john@example.com"}, "emial"),
        ({}, "record"),
        ({"name": None, "email": " "}, "record"),
    ],
)
def test_fields_that_break_the_rules_are_never_sent(hook, requests_mock, fields, at_fault):
    with pytest.raises(PayarcRefused) as caught:
        hook.create_customer(fields)
    assert list(caught.value.errors) == [at_fault]
    assert caught.value.status is None
    assert requests_mock.request_history == []


def test_get_customer_takes_an_id_with_or_without_its_prefix(hook, requests_mock):
    requests_mock.get(f"{CUSTOMERS}/c1", json=answer(**JOHN))
    assert hook.get_customer("c1") == hook.get_customer("cus_c1") == {"object": "customer", "customer_id": "c1", **JOHN}


def test_update_customer_patches_the_given_fields_only(hook, requests_mock):
    requests_mock.patch(f"{CUSTOMERS}/c1", json=answer(name="John Smith", city="Boston"))
    assert hook.update_customer("c1", {"city": "Boston"})["city"] == "Boston"
    assert requests_mock.request_history[0].text == "city=Boston"


def test_update_customer_with_an_invalid_value_sends_nothing(hook, requests_mock):
    with pytest.raises(PayarcRefused) as caught:
        hook.update_customer("c1", {"city": "X"})
    assert list(caught.value.errors) == ["city"]
    assert requests_mock.request_history == []


@pytest.mark.parametrize("fields", [{}, {"city": None}, {"city": "  "}])
def test_update_customer_refuses_an_empty_change(hook, requests_mock, fields):
    with pytest.raises(PayarcRefused, match="changes nothing") as caught:
        hook.update_customer("c1", fields)
    assert caught.value.status is None
    assert requests_mock.request_history == []


@pytest.mark.parametrize("shown", ["", None])
def test_update_customer_clears_a_field_with_the_empty_text(hook, requests_mock, warnings, shown):
    requests_mock.patch(f"{CUSTOMERS}/c1", json=answer(name="John Smith", city=shown))
    hook.update_customer("c1", {"name": "John Smith", "city": "", "phone": None})
    assert requests_mock.request_history[0].text == "name=John+Smith&city="
    assert warnings == []


def test_update_customer_names_the_fields_that_payarc_has_altered_but_not_their_values(hook, requests_mock, warnings):
    requests_mock.patch(f"{CUSTOMERS}/c1", json=answer(name="JOHN SMITH", city="Boston", phone="2025550101"))
    fields = {"name": "John Smith", "city": "", "phone": "(202) 555-0101", "email": "john@example.com"}
    customer = hook.update_customer("c1", fields)
    assert (customer["name"], customer["city"]) == ("JOHN SMITH", "Boston")
    assert warnings == ["PayArc shows other values than were sent to it in city, name"]


def test_delete_customer_returns_nothing(hook, requests_mock):
    requests_mock.delete(f"{CUSTOMERS}/c1", status_code=204)
    assert hook.delete_customer("c1") is None


def test_list_customers_requests_each_page_when_it_is_reached(hook, requests_mock):
    pages = [listed({"id": "c3"}, {"id": "c2"}, total=3, pages=2), listed({"id": "c1"}, total=3, page=2, pages=2)]
    requests_mock.get(CUSTOMERS, [{"json": page} for page in pages])
    customers = hook.list_customers(page_size=2)
    assert requests_mock.request_history == []
    assert [next(customers)["customer_id"], next(customers)["customer_id"]] == ["c3", "c2"]
    assert len(requests_mock.request_history) == 1
    assert [customer["customer_id"] for customer in customers] == ["c1"]
    assert [request.qs for request in requests_mock.request_history] == [
        {"limit": ["2"], "page": ["1"]},
        {"limit": ["2"], "page": ["2"]},
    ]


def test_get_conn_returns_the_client_of_the_hook(hook):
    assert hook.get_conn() is hook.client
    assert hook.get_conn() is hook.get_conn()


# ---- errors --------------------------------------------------------------------------------------------------------

INVALID = {
    "status": "error",
    "code": 0,
    "message": "The given data was invalid.",
    "errors": {"email": ["The email has already been taken."]},
    "status_code": 422,
}


@pytest.mark.parametrize(
    ("reply", "error", "facts"),
    [
        ({"status_code": 422, "json": INVALID}, PayarcRefused, {"status": 422, "errors": INVALID["errors"]}),
        ({"status_code": 409, "json": ["Invalid CVV"]}, PayarcRefused, {"status": 409, "message": "Invalid CVV"}),
        ({"status_code": 401, "json": {"error": "Unauthenticated."}}, PayarcAuthError, {"status": 401}),
        ({"status_code": 403, "text": "no"}, PayarcAuthError, {"status": 403}),
        (
            {"status_code": 429, "headers": {"Retry-After": "7", "X-RateLimit-Limit": "30"}},
            PayarcRateLimited,
            {"retry_after": 7.0},
        ),
        ({"status_code": 500, "text": "<html>"}, PayarcUnknownOutcome, {"status": 500, "may_have_acted": True}),
        ({"status_code": 408}, PayarcUnknownOutcome, {"status": 408}),
        ({"status_code": 201, "text": "OK"}, PayarcUnknownOutcome, {"status": 201}),
        ({"status_code": 201, "json": {"data": {}}}, PayarcUnknownOutcome, {"status": 201}),
        ({"status_code": 302, "headers": {"Location": "/login"}}, PayarcUnexpectedAnswer, {"status": 302}),
        ({"status_code": 404, "text": "no"}, PayarcUnexpectedAnswer, {"status": 404}),
        ({"status_code": 422, "text": "blocked"}, PayarcUnknownOutcome, {"status": 422, "may_have_acted": True}),
        ({"exc": requests.exceptions.ReadTimeout}, PayarcUnknownOutcome, {"may_have_acted": True}),
        ({"exc": requests.exceptions.ConnectTimeout}, PayarcConnectionFailed, {"may_have_acted": False}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_failed_request_raises_its_error_and_is_never_repeated(hook, requests_mock, reply, error, facts):
    requests_mock.post(CUSTOMERS, **reply)
    with pytest.raises(error) as caught:
        hook.create_customer(JOHN)
    assert {name: getattr(caught.value, name) for name in facts} == facts
    assert len(requests_mock.request_history) == 1
    text = str(caught.value)
    assert "token-1" not in text
    assert "John" not in text
    assert "john@" not in text


@pytest.mark.parametrize(("option", "shown"), [("False", "… exists with …"), ("True", "John exists with …")])
def test_payarcs_words_are_shown_verbatim_only_if_the_configuration_says_so(
    hook, requests_mock, monkeypatch, option, shown
):
    monkeypatch.setenv("AIRFLOW__PAYARC__VERBATIM_REASONS", option)
    errors = {"name": ["John exists with token-1"]}
    requests_mock.post(CUSTOMERS, status_code=422, json=INVALID | {"errors": errors})
    with pytest.raises(PayarcRefused) as caught:
        hook.create_customer(JOHN)
    assert caught.value.errors == {"name": [shown]}


def test_a_missing_customer_raises_not_found(hook, requests_mock):
    requests_mock.get(f"{CUSTOMERS}/c9", status_code=404, json={"message": "Customer not found."})
    with pytest.raises(PayarcNotFound):
        hook.get_customer("c9")


def test_a_failed_read_changed_nothing(hook, requests_mock):
    requests_mock.get(f"{CUSTOMERS}/c1", status_code=502)
    with pytest.raises(PayarcUnknownOutcome) as caught:
        hook.get_customer("c1")
    assert caught.value.may_have_acted is False


# ---- the connection ------------------------------------------------------------------------------------------------


def test_the_environment_is_test_by_default(connect):
    assert connect().settings.base_url == TEST
    assert connect(extra={"environment": "test"}).settings.base_url == TEST
    live = connect(extra={"environment": "live"}).settings
    assert (live.base_url, live.environment) == (LIVE, "live")


def test_empty_extras_have_their_defaults(connect):
    empty = {"environment": "", "account": "", "timeout": "", "verify": ""}
    assert connect(extra=empty).settings == connect().settings
    assert connect(extra=dict.fromkeys(empty)).settings == connect().settings
    assert connect().settings.timeout == 30
    assert connect().settings.verify is True
    assert connect().settings.account is None


def test_extras_are_read(connect, tmp_path):
    given = {"account": " acme ", "timeout": "12.5", "verify": f"{tmp_path}/ca.pem"}
    settings = connect(extra=given).settings
    assert (settings.account, settings.timeout, settings.verify) == ("acme", 12.5, f"{tmp_path}/ca.pem")
    assert connect(extra={"verify": "False"}).settings.verify is False
    assert connect(extra={"verify": False}).settings.verify is False


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"enviroment": "live"}, 'unknown name "enviroment"; did you mean "environment"'),
        ({"headers": {"X": "y"}}, 'unknown name "headers"; choose from environment, account, timeout, verify'),
        ({"environment": "prod"}, '"environment": must be "test" or "live"'),
        ({"timeout": "soon"}, '"timeout": must be a number of seconds'),
        ({"timeout": 0}, '"timeout": must be a number of seconds'),
        ({"timeout": -1}, '"timeout": must be a number of seconds'),
        ({"timeout": 601}, '"timeout": must be a number of seconds'),
        ({"timeout": "nan"}, '"timeout": must be a number of seconds'),
        ({"timeout": True}, '"timeout": must be a number of seconds'),
    ],
)
def test_an_unknown_or_invalid_extra_is_rejected_by_name(connect, extra, says):
    with pytest.raises(PayarcConfigError) as caught:
        _ = connect(extra=extra).settings
    assert says in str(caught.value)


@pytest.mark.parametrize(("environment", "host"), [("live", TEST), ("test", LIVE), ("test", "api.payarc.net")])
def test_payarcs_own_host_must_match_the_environment(connect, environment, host):
    with pytest.raises(PayarcConfigError, match=r'set environment to "(test|live)"'):
        _ = connect(extra={"environment": environment}, host=host).settings


@pytest.mark.parametrize(
    ("host", "base_url", "environment"),
    [
        ("https://sandbox.example.com", "https://sandbox.example.com/v1", "sandbox.example.com"),
        ("sandbox.example.com", "https://sandbox.example.com/v1", "sandbox.example.com"),
        ("https://sandbox.example.com:8443/api/", "https://sandbox.example.com:8443/api", "sandbox.example.com:8443"),
        ("http://localhost:8765/v1", "http://localhost:8765/v1", "localhost:8765"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765/v1", "127.0.0.1:8765"),
        ("https://testapi.payarc.net", TEST, "test"),
        (f"  {TEST}/ ", TEST, "test"),
    ],
)
def test_another_host_is_an_environment_of_its_own(connect, host, base_url, environment):
    settings = connect(host=host).settings
    assert (settings.base_url, settings.environment) == (base_url, environment)


def test_a_connection_written_as_a_uri_is_read_the_same(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_URI", "payarc://:token-1@sandbox.example.com:8443/?timeout=9")
    hook = PayarcHook("uri")
    assert hook.settings.base_url == "https://sandbox.example.com:8443/v1"
    assert hook.settings.timeout == 9
    assert hook.token() == "token-1"


@pytest.mark.parametrize(
    "host",
    ["http://sandbox.example.com", "http://testapi.payarc.net", "ftp://localhost", "http://127.0.0.1.example.com"],
)
def test_the_token_is_only_sent_unencrypted_to_loopback(connect, host):
    with pytest.raises(PayarcConfigError, match="https://"):
        _ = connect(host=host).settings


@pytest.mark.parametrize("password", [None, "", "  ", "Bearer "])
def test_a_connection_without_a_token_says_where_to_put_it(connect, password):
    with pytest.raises(PayarcConfigError, match="connection's password"):
        connect(password=password).get_customer("c1")


# ---- the token -----------------------------------------------------------------------------------------------------


def test_after_a_401_a_rotated_token_is_read_and_the_request_sent_once_more(connect, requests_mock):
    hook = connect("token-1")
    _ = hook.client
    connect("token-2")
    requests_mock.post(
        CUSTOMERS, [{"status_code": 401, "json": {"error": "Unauthenticated."}}, {"status_code": 201, "json": answer()}]
    )
    assert hook.create_customer(JOHN)["customer_id"] == "c1"
    sent = [request.headers["Authorization"] for request in requests_mock.request_history]
    assert sent == ["Bearer token-1", "Bearer token-2"]


def test_a_401_with_the_same_token_is_final(hook, requests_mock):
    requests_mock.post(CUSTOMERS, status_code=401, json={"error": "Unauthenticated."})
    with pytest.raises(PayarcAuthError, match="connection's password"):
        hook.create_customer(JOHN)
    assert len(requests_mock.request_history) == 1


def test_every_token_is_masked_before_it_is_used(connect, requests_mock, monkeypatch):
    masked = []
    monkeypatch.setattr(payarc, "mask_secret", masked.append)
    hook = connect("token-1")
    _ = hook.client
    connect("token-2")
    unmasked = []

    def reply(request, context):
        if request.headers["Authorization"].removeprefix("Bearer ") not in masked:
            unmasked.append(request)
        context.status_code = 401
        return {"error": "Unauthenticated."}

    requests_mock.get(f"{CUSTOMERS}/c1", json=reply)
    with pytest.raises(PayarcAuthError):
        hook.get_customer("c1")
    assert masked == ["token-1", "token-2"]
    assert unmasked == []


def test_an_expired_token_raises_before_any_request(connect, requests_mock):
    hook = connect(jwt(sub="17", exp=time.time() - 60))
    with pytest.raises(PayarcAuthError, match=r"expired on .*dashboard"):
        hook.get_customer("c1")
    assert requests_mock.request_history == []


def test_a_warning_names_connection_and_days_before_the_token_expires(connect, warnings):
    hook = connect(jwt(sub="17", exp=time.time() + 3 * 86400 + 60))
    _ = hook.client
    (warning,) = warnings
    assert "payarc_default" in warning
    assert "expires in 3 days" in warning
    assert hook.token() not in warning


@pytest.mark.parametrize("claims", [None, {"sub": "17"}, {"exp": 4102444800}], ids=["opaque", "endless", "long"])
def test_no_warning_if_the_token_does_not_expire_soon(connect, warnings, claims):
    _ = connect(jwt(**claims) if claims else "opaque").client
    assert warnings == []


def test_the_tokens_user_is_read_from_it(connect):
    assert connect(jwt(sub="17")).claims.sub == "17"
    assert connect("opaque").claims.sub is None


# ---- test_connection -----------------------------------------------------------------------------------------------


def test_test_connection_reads_one_customer(hook, requests_mock):
    requests_mock.get(CUSTOMERS, json=listed({"id": "c1"}))
    assert hook.test_connection() == (True, "PayArc accepts the token (test)")
    (request,) = requests_mock.request_history
    assert (request.method, request.qs) == ("GET", {"limit": ["1"], "page": ["1"]})


@pytest.mark.parametrize(
    "reply",
    [
        {"status_code": 401, "json": {"error": "Unauthenticated token-1."}},
        {"status_code": 500, "text": "token-1 SECRET-BODY"},
        {"status_code": 404, "text": "token-1 SECRET-BODY"},
        {"exc": requests.exceptions.ConnectionError("token-1 SECRET-BODY")},
    ],
)
def test_test_connection_reports_a_failure_without_token_or_response(hook, requests_mock, reply):
    requests_mock.get(CUSTOMERS, **reply)
    works, message = hook.test_connection()
    assert works is False
    assert message
    assert "token-1" not in message
    assert "SECRET-BODY" not in message


def test_test_connection_names_a_misconfigured_field(connect):
    works, message = connect(extra={"environment": "prod"}).test_connection()
    assert works is False
    assert '"environment"' in message


def test_a_token_of_another_user_is_rejected_during_a_run(connect, hook):
    connect(password=jwt(sub="1", jti="first"))
    first = hook.token()
    connect(password=jwt(sub="1", jti="second"))
    assert hook.token(refresh=True) != first
    connect(password=jwt(sub="2"))
    with pytest.raises(PayarcAuthError, match="another user"):
        hook.token(refresh=True)


SECRET_FIELDS = [
    {"host": "https://testapi.payarc.net:s3cret/v1"},
    {"host": "https://testapi.payarc.net:99999999"},
    {"host": "https://[s3cret/v1"},
    {"host": "https://s3cret]/v1"},
    {"host": "https://[s3cret]:443/v1", "port": 443},
    {"host": "https://user:s3cret@testapi.payarc.net/v1"},
    {"host": "https://testapi.payarc.net/v1?token=s3cret"},
    {"host": "https://testapi.payarc.net/v1#s3cret", "port": 443},
    {"host": "https://s3cret.ex\u2100mple.com"},  # becomes a/c when it is normalized
    {"host": "s3cret host"},
    {"host": "s3cret\nhost"},
    {"host": "ftp://s3cret"},
    {"host": "http://s3cret.example"},
    {"host": "://s3cret"},
    {"host": "s3cret\x00"},
    {"extra": {"s3cret token of a careless person": 1}},
    {"extra": {"timeout": "s3cret"}},
    {"extra": {"timeout": 10**400}},
    {"extra": {"environment": "s3cret"}},
    {"extra": {"verify": "/s3cret"}},
    {"extra": {"account": "s3cret\u202e"}},
    {"extra": ["s3cret"]},
    {"password": "s3cret\ntoken"},
]


@pytest.mark.parametrize("fields", SECRET_FIELDS, ids=ascii)
def test_test_connection_never_quotes_a_malformed_field(connect, fields):
    works, message = connect(**fields).test_connection()
    assert not works
    assert "s3cret" not in message
    assert len(message) < 300


def test_test_connection_never_quotes_an_unexpected_error(hook, monkeypatch):
    def fail(self):
        raise RuntimeError("s3cret")

    monkeypatch.setattr(PayarcHook, "settings", property(fail))
    assert hook.test_connection() == (
        False,
        "the connection cannot be used (RuntimeError): check each of its fields",
    )


def test_a_live_token_without_verification_is_warned_about(connect, warnings, requests_mock):
    requests_mock.get(f"{LIVE}/customers", json=listed([]))
    for verify in (False, "false"):
        hook = connect(extra={"environment": "live", "verify": verify})
        works, message = hook.test_connection()
        assert works
        assert message.startswith("PayArc accepts the token (live). But verify is false and the environment live")
        assert warnings.pop().startswith("Connection payarc_default: verify is false and the environment live")
    assert connect(extra={"environment": "live", "verify": False}, host="https://proxy.example/v1").settings.risk


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"environment": "live"}},
        {"extra": {"environment": "live", "verify": "/etc/ssl/certs"}},
        {"extra": {"verify": False}},
        {"extra": {"environment": "live", "verify": False}, "host": "https://localhost:8443/v1"},
    ],
)
def test_other_connections_are_not_warned_about(connect, warnings, fields):
    assert connect(**fields).settings.risk is None
    connect(**fields).get_client()
    assert warnings == []


# ---- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [lambda hook: pickle.loads(pickle.dumps(hook)), copy.deepcopy])
def test_a_pickled_hook_contains_no_token_and_reads_it_from_the_connection_again(connect, copied):
    hook = connect("secrettoken")
    assert (hook.token(), hook.client.limiter, hook.claims.sub) == ("secrettoken", hook.client.limiter, None)
    assert b"secrettoken" not in pickle.dumps(hook)
    again = copied(hook)
    assert "secrettoken" not in str(vars(again))
    connect("newtoken")
    assert again.token() == "newtoken"
    assert hook.token() == "secrettoken"


def test_a_client_is_never_pickled(connect):
    client = connect("secrettoken").client
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="create one in the process that uses it"):
            copied(client)
