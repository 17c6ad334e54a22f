"""Which requests a fault rule hits."""

import pytest
from requests.exceptions import ConnectionError
from sandbox_client import Client

from payarc_provider.sandbox import SandboxServer


def statuses(client, count):
    return [client.create().status_code for _ in range(count)]


def test_a_rule_fires_once_by_default(client, sandbox):
    sandbox.faults([{"kind": "status_before"}])

    assert statuses(client, 3) == [500, 201, 201]


@pytest.mark.parametrize(
    ("rule", "hits"),
    [
        ({"times": 2}, [0, 1]),
        ({"times": None}, [0, 1, 2, 3, 4, 5]),
        ({"skip": 2, "times": 1}, [2]),
        ({"every": 3}, [2, 5]),
        ({"every": 2, "skip": 1, "times": 1}, [2]),
        ({"probability": 0}, []),
        ({"probability": 1}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_rule_chooses_which_requests_it_hits(client, sandbox, rule, hits):
    sandbox.faults([{"kind": "status_before", **rule}])

    assert [i for i, status in enumerate(statuses(client, 6)) if status == 500] == hits
    assert sandbox.faults()[0]["fired"] == len(hits)
    assert sandbox.stats()["faults"] == ({"status_before": len(hits)} if hits else {})


def test_a_rule_can_match_a_record(client, sandbox):
    sandbox.faults([{"kind": "status_before", "match": {"email": "jane@example.com"}}])

    assert client.create().status_code == 201
    assert client.post("", data={"email": "jane@example.com"}).status_code == 500


def test_a_rule_can_match_a_method_a_route_and_a_page(client, sandbox):
    sandbox.faults(
        [
            {"kind": "html_before", "method": "GET", "route": "/customers", "match": {"page": 2}},
            {"kind": "lost_after", "method": "DELETE"},
        ]
    )
    path = "/" + client.create().json()["data"]["customer_id"]

    assert client.get(path).status_code == client.get("", params={"page": 1}).status_code == 200
    assert client.get("", params={"page": 2}).status_code == 502
    with pytest.raises(ConnectionError):
        client.delete(path)
    assert client.get(path).status_code == 404


def test_the_first_rule_that_fires_decides(client, sandbox):
    sandbox.faults([{"kind": "status_before", "skip": 1}, {"kind": "html_before", "times": 2}])

    assert statuses(client, 4) == [502, 500, 502, 201]


def test_rules_can_be_cleared(client, sandbox):
    sandbox.faults([{"kind": "status_before", "times": None}])
    sandbox.clear_faults()

    assert statuses(client, 1) == [201]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"kind": "fire"},
        {"kind": "lost_after", "when": 1},
        {"kind": "lost_after", "every": 0},
        {"kind": "lost_after", "method": "post"},
        {"kind": "lost_after", "route": "/charges"},
    ],
)
def test_an_invalid_rule_is_rejected_and_adds_none(sandbox, rule):
    with pytest.raises(ValueError, match="fault"):
        sandbox.faults([{"kind": "lost_after"}, rule])
    assert sandbox.faults() == []


def test_a_seed_makes_probabilities_and_ids_repeatable():
    def run():
        with SandboxServer(seed=7) as sandbox, Client(sandbox) as client:
            sandbox.faults([{"kind": "status_before", "probability": 0.5}])
            return statuses(client, 12), [row["customer_id"] for row in sandbox.customers()]

    first, second = run(), run()
    assert first == second
    assert set(first[0]) == {201, 500}
