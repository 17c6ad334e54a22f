"""What a client sees when a request goes wrong, and what was carried out."""

import time

import pytest
from requests.exceptions import ChunkedEncodingError, ConnectionError, JSONDecodeError, ReadTimeout
from sandbox_client import eventually


@pytest.mark.parametrize("created", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["lost", "cut"])
def test_lost_and_cut_responses(client, sandbox, kind, created):
    sandbox.faults([{"kind": f"{kind}_{'after' if created else 'before'}"}])

    with pytest.raises((ConnectionError, ChunkedEncodingError)) as caught:
        client.create()

    assert isinstance(caught.value, ChunkedEncodingError) == (kind == "cut")
    assert "IncompleteRead" in str(caught.value) or "reset by peer" in str(caught.value)
    check_created(client, sandbox, created)


@pytest.mark.parametrize("created", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("rule", "status", "text"),
    [
        ({"kind": "status"}, 500, '{"message":"Internal Server Error"}'),
        ({"kind": "status", "status": 408}, 408, '{"message":"Request Timeout"}'),
        ({"kind": "status", "status": 503, "body": "{}"}, 503, "{}"),
        ({"kind": "html"}, 502, "<html>"),
        ({"kind": "garbage"}, 201, "OK"),
        ({"kind": "garbage", "body": "{}"}, 201, "{}"),
    ],
)
def test_responses_that_do_not_say_whether_a_customer_was_created(client, sandbox, rule, status, text, created):
    sandbox.faults([rule | {"kind": f"{rule['kind']}_{'after' if created else 'before'}"}])

    response = client.create()

    assert response.status_code == status
    assert response.text.startswith(text)
    check_created(client, sandbox, created)


def check_created(client, sandbox, created):
    [post] = sandbox.log()
    assert post["outcome"] == ("created" if created else "not_created")
    assert [row["customer_id"] for row in sandbox.customers()] == ([post["customer_id"]] if created else [])
    assert not post["id_sent"]
    assert sandbox.stats()["posts"]["lost"] == int(created)
    assert client.create().status_code == 201
    assert sandbox.log()[1]["id_sent"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("unauthorized", 401), ("forbidden", 403), ("not_found", 404), ("redirect", 302), ("rate_limited", 429)],
)
def test_requests_that_are_turned_away(client, sandbox, kind, status):
    sandbox.faults([{"kind": kind, "seconds": 7}])

    response = client.create()

    assert response.status_code == status
    assert sandbox.customers() == []
    assert response.headers.get("Retry-After") == ("7" if kind == "rate_limited" else None)
    assert response.headers.get("Location") == ("/login" if kind == "redirect" else None)
    if kind == "not_found":
        with pytest.raises(JSONDecodeError):
            response.json()


def test_a_request_can_hang_before_it_is_carried_out(client, sandbox):
    sandbox.faults([{"kind": "hang_before", "seconds": 0.2}])

    with pytest.raises(ReadTimeout):
        client.create(timeout=0.05)

    assert sandbox.customers() == []
    assert sandbox.log()[0]["outcome"] == "open"
    eventually(lambda: len(sandbox.customers()) == 1)
    eventually(lambda: sandbox.stats()["unanswered"] == 1)
    assert sandbox.log()[0]["status"] is None


def test_a_request_can_hang_after_it_is_carried_out(client, sandbox):
    sandbox.faults([{"kind": "hang_after", "seconds": 0.2, "times": 2}])

    with pytest.raises(ReadTimeout):
        client.create(timeout=0.05)
    assert len(sandbox.customers()) == 1
    assert client.create().status_code == 201


@pytest.mark.parametrize("status", [None, 503])
def test_a_request_can_be_carried_out_after_its_response(client, sandbox, status):
    sandbox.settings(clock_offset=1000)
    sandbox.faults([{"kind": "late_commit", "seconds": 0.2, "status": status}])

    if status:
        assert client.create().status_code == status
    else:
        with pytest.raises(ConnectionError):
            client.create()

    assert sandbox.customers() == []
    assert sandbox.stats()["posts"]["open"] == 1
    sandbox.settings(clock_offset=2000)
    eventually(lambda: len(sandbox.customers()) == 1)
    [post] = sandbox.log()
    assert post["outcome"] == "created"
    assert post["committed"] - post["arrived"] >= 0.2
    assert abs(sandbox.customers()[0]["created_at"] - 2000 - time.time()) < 3


def test_a_reset_cancels_late_commits(client, sandbox):
    sandbox.faults([{"kind": "late_commit", "seconds": 0.1, "status": 500}])
    client.create()

    sandbox.reset()

    time.sleep(0.2)
    assert sandbox.customers() == []


def test_half_a_request_is_ignored(client, sandbox):
    def half():
        yield b"name=John"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.post("", data=half(), headers={"Content-Type": "application/x-www-form-urlencoded"})

    client.create()
    assert [row["name"] for row in sandbox.customers()] == ["John Smith"]
    assert sandbox.stats()["posts"]["received"] == 1


@pytest.mark.parametrize("status", [400, 401, 422, 429])
@pytest.mark.parametrize("kind", ["html_after", "foreign_after"])
def test_a_gateway_can_respond_after_the_customer_was_created(client, sandbox, kind, status):
    sandbox.settings(rate_limit=90)
    sandbox.faults([{"kind": kind, "status": status}])

    response = client.create()

    assert response.status_code == status
    assert not [name for name in response.headers if name.lower().startswith(("x-ratelimit", "retry"))]
    if kind == "foreign_after":
        assert not {"error", "errors", "message"} & set(response.json())
    check_created(client, sandbox, created=True)


def test_payarcs_own_responses_have_its_format_and_headers(client, sandbox):
    sandbox.settings(rate_limit=90)
    sandbox.faults([{"kind": "unauthorized"}, {"kind": "rate_limited", "seconds": 7}])

    unauthorized, limited, rejected = client.create(), client.create(), client.create({"name": "x"})

    assert unauthorized.json() == {"error": "Unauthenticated."}
    assert limited.json() == {"message": "Too Many Attempts."}
    assert limited.headers["Retry-After"] == "7"
    assert "X-RateLimit-Reset" in limited.headers
    assert rejected.status_code == rejected.json()["status_code"] == 422
    assert set(rejected.json()["errors"]) == {"name"}
    for response in (unauthorized, limited, rejected):
        assert response.headers["X-RateLimit-Limit"] == "90"
        assert "X-RateLimit-Remaining" in response.headers
