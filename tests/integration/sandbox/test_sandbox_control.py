"""Control: settings, counts and the log, as methods and over HTTP."""

import json
import time

import pytest
import requests
from sandbox_client import JOHN

from payarc_provider.sandbox import SANDBOX_TOKEN


@pytest.mark.parametrize(
    "change",
    [
        {"speed": 1},
        {"id_style": "x"},
        {"alter": {"name": "rot13"}},
        {"latency": -1},
        {"rate_limit": 0},
        {"rate_limit_per": "x"},
    ],
)
def test_an_invalid_setting_is_rejected_and_changes_nothing(sandbox, change):
    before = sandbox.settings()
    with pytest.raises(ValueError, match=next(iter(change))):
        sandbox.settings(**change)
    assert sandbox.settings() == before


def test_everything_can_be_controlled_over_http(client, sandbox):
    control = f"{sandbox.origin}/_sandbox"

    def call(method, path, body=None):
        return requests.request(method, f"{control}/{path}", json=body, timeout=5)

    assert call("POST", "settings", {"id_style": "guide"}).json()["id_style"] == "guide"
    assert call("POST", "faults", [{"kind": "status_after"}]).json()[0]["fired"] == 0
    assert call("POST", "customers", [{"name": "Jane Smith", "created_at": 5}]).json()[0]["created_at"] == 5
    client.create()
    assert call("GET", "faults").json()[0]["fired"] == 1
    assert call("DELETE", "faults").status_code == 204
    assert sandbox.faults() == []
    assert call("GET", "customers?merchant=1").json() == sandbox.customers("1")
    assert [row["created_by_request"] for row in sandbox.customers()] == [None, 1]
    assert call("GET", "customers?merchant=2").json() == []
    assert call("GET", "log").json() == sandbox.log()
    assert call("GET", "settings").json() == json.loads(json.dumps(sandbox.settings()))
    assert call("GET", "stats").json()["posts"] == sandbox.stats()["posts"]
    assert call("POST", "revoke", {"token": SANDBOX_TOKEN}).status_code == 204
    assert client.get("").status_code == 401
    assert call("POST", "reset").status_code == 204
    assert client.rows() == []
    assert sandbox.settings()["id_style"] == "customer_id"


@pytest.mark.parametrize(
    ("path", "body"),
    [("faults", [{"kind": "fire"}]), ("settings", {"x": 1}), ("settings", {"latency": "long"}), ("revoke", {})],
)
def test_invalid_control_requests_are_a_400(sandbox, path, body):
    response = requests.post(f"{sandbox.origin}/_sandbox/{path}", json=body, timeout=5)

    assert response.status_code == 400
    assert response.json()["error"]


def test_stats_count_requests_responses_and_posts(client, sandbox):
    client.create()
    client.create({"name": "Jo"})
    client.rows()

    stats = sandbox.stats()
    assert stats["customers"] == {"1": 1}
    assert stats["requests"] == {"POST /customers": 2, "GET /customers": 1}
    assert stats["responses"] == {"201": 1, "422": 1, "200": 1}
    assert stats["posts"]["received"] == 2
    assert stats["posts"]["created"] == stats["posts"]["rejected"] == 1
    assert stats["posts"]["lost"] == 0
    assert stats["connections"] == 1


def test_the_log_shows_which_post_created_which_customer(client, sandbox):
    client.create(JOHN | {"description": "ref #one"})
    client.create(JOHN | {"description": "bad"})

    first, second = sandbox.log()
    assert (first["sequence"], second["sequence"]) == (1, 2)
    assert first["description"] == "ref #one"
    assert first["customer_id"] == sandbox.customers()[0]["customer_id"]
    assert first["arrived"] <= first["committed"] <= second["arrived"] <= time.monotonic()
    assert (second["customer_id"], second["status"]) == (None, 422)
