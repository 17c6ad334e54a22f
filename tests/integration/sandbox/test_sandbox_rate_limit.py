"""Rate limits: windows, 429s and their headers."""

import time
from email.utils import parsedate_to_datetime

from sandbox_client import Client

from payarc_provider.sandbox import make_token


def test_a_full_window_responds_429_until_it_ends(client, sandbox):
    sandbox.settings(rate_limit=2, rate_window=0.3)

    responses = [client.create() for _ in range(3)]
    assert [response.status_code for response in responses] == [201, 201, 429]
    assert {response.headers["X-RateLimit-Limit"] for response in responses} == {"2"}
    assert [response.headers["X-RateLimit-Remaining"] for response in responses] == ["1", "0", "0"]
    assert responses[2].json() == {"message": "Too Many Attempts."}
    assert responses[2].headers["Retry-After"] == "1"
    assert -0.5 < int(responses[2].headers["X-RateLimit-Reset"]) - time.time() < 1.5
    assert "Retry-After" not in responses[0].headers
    time.sleep(0.3)
    assert client.create().status_code == 201
    assert len(sandbox.customers()) == 3
    assert sandbox.stats()["rate_limited"] == sandbox.stats()["posts"]["rate_limited"] == 1


def test_by_default_each_endpoint_has_a_window_per_token(client, sandbox):
    sandbox.settings(rate_limit=1)

    assert client.create().status_code == 201
    assert client.create().status_code == 429
    assert client.get("").status_code == 200
    assert client.get("/unknown").status_code == 404
    assert client.get("/another").status_code == 429
    with Client(sandbox, make_token()) as other:
        assert other.create().status_code == 201


def test_one_window_per_user_covers_all_endpoints_and_tokens(client, sandbox):
    sandbox.settings(rate_limit=3, rate_limit_per="user")

    assert client.create().headers["X-RateLimit-Remaining"] == "2"
    assert client.get("").headers["X-RateLimit-Remaining"] == "1"
    with Client(sandbox, make_token()) as same_user, Client(sandbox, make_token("2")) as other_user:
        assert same_user.get("/unknown").headers["X-RateLimit-Remaining"] == "0"
        assert client.create().status_code == same_user.get("").status_code == 429
        assert other_user.create().status_code == 201


def test_without_a_limit_there_are_no_rate_limit_headers(client):
    assert not any(name.lower().startswith("x-ratelimit") for name in client.create().headers)


def test_retry_after_can_be_seconds_a_date_or_missing(client, sandbox):
    sandbox.settings(rate_limit=1, rate_window=30, retry_after="date")
    client.create()
    dated = client.create().headers
    sandbox.settings(retry_after="none")
    bare = client.create().headers
    sandbox.settings(rate_headers=False)
    silent = client.create().headers

    assert 28 < parsedate_to_datetime(dated["Retry-After"]).timestamp() - time.time() < 32
    assert "Retry-After" not in bare
    assert "X-RateLimit-Reset" in bare
    assert not {"Retry-After", "X-RateLimit-Reset", "X-RateLimit-Limit"} & set(silent)
