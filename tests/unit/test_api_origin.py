"""PayArc's own 4xx are told from those of a gateway, which may have been sent after the act."""

from __future__ import annotations

import json

import pytest

from payarc_provider.api.errors import error_for
from payarc_provider.api.http import Request, Response
from payarc_provider.exceptions import PayarcNotFound, PayarcRefused, PayarcUnexpectedAnswer, PayarcUnknownOutcome

QUOTA = {"x-ratelimit-limit": "30", "X-RateLimit-Remaining": "29"}
ENVELOPE = {"status": "error", "code": 0, "message": "No.", "status_code": 404, "exception": "NotFoundHttpException"}
GATEWAYS = [
    {"message": "Not Found"},
    {"message": "no Route matched with those values"},
    {"message": "Missing Authentication Token"},
    {"message": "Bad Request"},
    {"message": None},
    {"message": {"text": "The given data was invalid."}},
    {"error": "Conflict", "message": "Request body is too large"},
    {"message": "The route " + "x" * 5000 + " could not be found."},
    {"detail": "Not found."},
    {"errors": {"name": ["The name is invalid."]}},
    {},
    ["Conflict", 409],
    "The route v1/customers/c1 could not be found.",
    "[" * 100_000,
    '{"message": ' + "9" * 5000 + "}",
]


def answer(status, body, headers=None, *, method="POST", customer_id=None):
    text = body if isinstance(body, str) else json.dumps(body)
    return error_for(Request(method, customer_id, fields={"name": "Ann"}), Response(status, headers or {}, text))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (ENVELOPE, {}),
        ({"message": "Gone.", "status_code": 404}, {}),
        ({"message": "The route v1/customers/c1 could not be found."}, {}),
        ({"message": "No query results for model [App\\Customer] c1"}, {}),
        ({"message": "Customer not found."}, {}),
        ({"message": ""}, QUOTA),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_404_of_payarcs_own_means_that_there_is_no_such_customer(method, body, headers):
    error = answer(404, body, headers, method=method, customer_id="c1")
    assert isinstance(error, PayarcNotFound)
    assert error.status == 404
    assert isinstance(answer(404, body, headers, method="GET"), PayarcUnexpectedAnswer), "the collection always exists"


@pytest.mark.parametrize("body", GATEWAYS, ids=lambda body: str(body)[:40])
def test_any_other_404_proves_nothing_about_a_customer(body):
    headers = {"X-RateLimit-Limit": "30", "Retry-After": "5"}  # one header alone may be a gateway's own
    for method in ("PATCH", "DELETE"):
        error = answer(404, body, headers, method=method, customer_id="c1")
        assert isinstance(error, PayarcUnknownOutcome)
        assert error.may_have_acted
    assert isinstance(answer(404, body, headers, method="GET", customer_id="c1"), PayarcUnexpectedAnswer)


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize(
    ("message", "headers"), [("The given data was invalid.", {}), ("Duplicate.", QUOTA), ("", QUOTA)]
)
def test_a_bare_message_from_payarcs_application_is_a_rejection(status, message, headers):
    for method, customer_id in (("POST", None), ("PATCH", "c1")):
        error = answer(status, {"message": message}, headers, method=method, customer_id=customer_id)
        assert type(error) is PayarcRefused
        assert error.status == status
        assert error.errors == {}


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("body", GATEWAYS, ids=lambda body: str(body)[:40])
@pytest.mark.parametrize("headers", [{}, {"X-RateLimit-Limit": "30"}, {**QUOTA, "X-RateLimit-Remaining": "many"}])
def test_a_message_that_a_gateway_may_have_written_is_no_rejection(status, body, headers):
    error = answer(status, body, headers)
    assert isinstance(error, PayarcUnknownOutcome)
    assert error.may_have_acted


@pytest.mark.parametrize("status", [400, 401, 409, 422])
def test_the_headers_of_the_rate_limit_alone_prove_nothing(status):
    for body in ("<html>Denied</html>", "", [], [1], {"error": "denied"}):
        assert isinstance(answer(status, body, QUOTA), PayarcUnknownOutcome)
