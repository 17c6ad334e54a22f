"""Which error a response means, or the lack of one; and that no error text shows too much."""

from __future__ import annotations

import json
import socket
import ssl

import pytest
import requests
from urllib3 import exceptions as u3

from payarc_provider.api.errors import error_for, transport_failure
from payarc_provider.api.http import Request, Response
from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcRateLimited,
    PayarcRefused,
    PayarcUnexpectedAnswer,
    PayarcUnknownOutcome,
)

ENVELOPE = {
    "status": "error",
    "code": 0,
    "message": "The given data was invalid.",
    "errors": {"email": ["The email must be a valid email address."], "name": ["It is too short.", "It is wrong."]},
    "status_code": 422,
    "exception": "Illuminate\\Validation\\ValidationException",
    "file": "/var/www/secret.php",
    "line": 130,
}
HTML = "<html><body>s3cret page</body></html>"


def answer(status, body="", *, method="POST", collection=True, headers=None, sent=None):
    text = body if isinstance(body, str) else json.dumps(body)
    request = Request(method, None if collection else "c1", fields=sent)
    return error_for(request, Response(status, headers or {}, text))


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_success_that_can_be_read_is_no_error(status):
    assert answer(status, {"data": {}}) is None
    assert answer(status, {"data": {}}, method="GET") is None


@pytest.mark.parametrize("body", ["", HTML, "[]", "null", '{"data": {"id": "x"', "[" * 100_000])
@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
def test_a_success_that_cannot_be_read_is_unknown(method, body):
    error = answer(201, body, method=method)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.status == 201
    assert error.may_have_acted == (method != "GET")


def test_a_successful_delete_has_no_body():
    assert answer(204, "", method="DELETE", collection=False) is None
    assert answer(200, " ", method="DELETE", collection=False) is None
    assert isinstance(answer(200, HTML, method="DELETE", collection=False), PayarcUnknownOutcome)


@pytest.mark.parametrize("status", [100, 199, 408, 500, 502, 503, 504, 520, 599, 999])
@pytest.mark.parametrize("body", [ENVELOPE, HTML])
def test_a_server_error_is_an_unknown_outcome_whatever_its_body(status, body):
    error = answer(status, body)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.status == status
    assert error.may_have_acted
    assert str(status) in str(error)
    assert "look the customer up" in str(error)


def test_a_read_with_an_unknown_outcome_changed_nothing():
    error = answer(503, HTML, method="GET")
    assert isinstance(error, PayarcUnknownOutcome)
    assert not error.may_have_acted
    assert "look" not in str(error)


@pytest.mark.parametrize(
    ("status", "body"), [(401, '{"error": "Unauthenticated."}'), (401, {"message": "Unauthenticated."}), (403, HTML)]
)
def test_the_token_is_not_accepted(status, body):
    error = answer(status, body)
    assert isinstance(error, PayarcAuthError)
    assert error.status == status
    assert f"({status})" in str(error)
    assert "token" in str(error)
    assert ("partner or agent key" in str(error)) == (status == 401)
    assert len(str(error)) <= 220


def test_rate_limited():
    error = answer(429, HTML, headers={"Retry-After": "17", "X-RateLimit-Limit": "30"})
    assert isinstance(error, PayarcRateLimited)
    assert error.retry_after == 17.0
    assert "after 17 seconds" in str(error)
    error = answer(429, {"message": "Too Many Attempts."})
    assert isinstance(error, PayarcRateLimited)
    assert error.retry_after is None


GATEWAY = [HTML, "", {"message": "Denied"}, {"error": "unauthorized"}, [429], {"errors": {"code": "limit"}}]


@pytest.mark.parametrize("status", [400, 401, 409, 422, 429])
@pytest.mark.parametrize("body", GATEWAY)
def test_a_status_that_a_gateway_may_have_sent_after_the_act_is_an_unknown_outcome(status, body):
    for method in ("POST", "PATCH"):
        error = answer(status, body, method=method, headers={"Retry-After": "17"})
        assert isinstance(error, PayarcUnknownOutcome)
        assert error.may_have_acted
        assert error.status == status
    assert not isinstance(answer(status, body, method="GET"), PayarcUnknownOutcome), "a read has no effect"


@pytest.mark.parametrize("status", [400, 409, 422])
def test_rejected_in_payarcs_words(status):
    error = answer(status, ENVELOPE)
    assert type(error) is PayarcRefused
    assert error.status == status
    assert error.message == "The given data was invalid."
    assert error.errors == ENVELOPE["errors"]
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("body", "message", "errors"),
    [
        ({"status": "error", "message": "Duplicate."}, "Duplicate.", {}),
        ({"message": "Duplicate.", "status_code": 409}, "Duplicate.", {}),
        ({"message": "", "errors": {"email": "Taken."}}, "PayArc rejected the data (409)", {"email": ["Taken."]}),
        ({"message": "Qvortrup", "status": "error"}, "PayArc rejected the data (409)", {}),
        (["Invalid CVV", "Wrong"], "Invalid CVV Wrong", {}),
    ],
)
def test_the_other_shapes_of_a_rejection(body, message, errors):
    error = answer(409, body)
    assert type(error) is PayarcRefused
    assert (error.message, error.errors) == (message, errors)


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize(
    "body",
    [
        "",
        HTML,
        "Bad Request",
        [],
        [1],
        {"message": "Bad"},
        {"status": "error"},
        {"errors": {}},
        {"errors": ["x"]},
        '"text"',
    ],
)
def test_a_rejection_in_a_foreign_shape_is_not_payarcs(status, body):
    error = answer(status, body)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.status == status


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 404, 405, 402, 407, 410, 413, 415, 418, 451])
def test_any_other_status_means_that_the_run_is_misconfigured(status):
    error = answer(status, ENVELOPE)
    assert isinstance(error, PayarcUnexpectedAnswer)
    assert str(status) in str(error)
    assert "host" in str(error)


@pytest.mark.parametrize("status", [201, 302, 401, 403, 404, 405, 422, 429, 500])
def test_html_is_never_quoted(status):
    assert "s3cret" not in str(answer(status, HTML))


def pooled(reason):
    return u3.MaxRetryError(None, "/v1/customers?email=s3cret", reason)  # type: ignore[arg-type]


REFUSED = u3.NewConnectionError(None, "refused")  # type: ignore[arg-type]
NO_NAME = u3.NameResolutionError("host", None, socket.gaierror(-2, "unknown"))  # type: ignore[arg-type]
BAD_CERT = ssl.SSLCertVerificationError(1, "self-signed")


@pytest.mark.parametrize(
    "exc",
    [
        requests.ConnectTimeout(pooled(u3.ConnectTimeoutError("slow"))),
        requests.ConnectTimeout(),
        requests.ConnectionError(pooled(REFUSED)),
        requests.ConnectionError(pooled(NO_NAME)),
        requests.exceptions.ProxyError(pooled(u3.ProxyError("no proxy", REFUSED))),
        requests.exceptions.ProxyError(pooled(u3.ProxyError("no", OSError("Tunnel connection failed: 407 Auth")))),
        requests.exceptions.SSLError(pooled(u3.SSLError(BAD_CERT))),
        requests.exceptions.InvalidProxyURL("s3cret"),
        requests.exceptions.InvalidSchema("no SOCKS"),
        u3.LocationParseError("s3cret"),
        REFUSED,
    ],
    ids=lambda exc: repr(exc)[:60],
)
def test_failures_before_anything_was_sent(exc):
    error = transport_failure("POST", exc)
    assert isinstance(error, PayarcConnectionFailed)
    assert not error.may_have_acted
    assert "s3cret" not in str(error)


RESET = ConnectionResetError(104, "reset")


@pytest.mark.parametrize(
    "exc",
    [
        requests.ReadTimeout(u3.ReadTimeoutError(None, "/?s3cret", "slow")),  # type: ignore[arg-type]
        requests.Timeout(),
        requests.ConnectionError(u3.ProtocolError("Connection aborted.", RESET)),
        requests.ConnectionError(),
        requests.exceptions.ProxyError(pooled(u3.ProxyError("Unable to connect to proxy", RESET))),
        requests.exceptions.ProxyError(),
        requests.exceptions.SSLError(pooled(u3.SSLError(ssl.SSLError("bad record mac")))),
        requests.exceptions.ChunkedEncodingError(u3.ProtocolError("cut", u3.IncompleteRead(1, 2))),
        requests.exceptions.ContentDecodingError("s3cret"),
        requests.RequestException("s3cret"),
        u3.HTTPError("s3cret"),
        OSError("s3cret"),
    ],
    ids=lambda exc: repr(exc)[:60],
)
def test_in_doubt_the_outcome_is_unknown(exc):
    error = transport_failure("POST", exc)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.may_have_acted
    assert error.status is None
    assert "s3cret" not in str(error)
    assert not getattr(transport_failure("GET", exc), "may_have_acted", True)


def test_the_context_of_an_exception_is_ignored():
    failure = requests.ReadTimeout()
    failure.__context__ = REFUSED
    assert isinstance(transport_failure("POST", failure), PayarcUnknownOutcome)


def test_only_the_host_of_the_request_is_named():
    request = requests.Request("POST", "https://u:s3cret@api.example/v1?q=s3cret", data={"a": "s3cret"}).prepare()
    text = str(transport_failure("POST", requests.ConnectionError(pooled(REFUSED), request=request)))
    assert "api.example" in text
    assert "NewConnectionError" in text
    assert "s3cret" not in text
