"""Creating, reading, changing and deleting customers over HTTP."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from sandbox_client import JOHN, Client

from payarc_provider.sandbox import make_token


@pytest.mark.parametrize("kind", ["json", "data"])
def test_json_and_form_bodies_create_the_same_customer(client, sandbox, kind):
    response = client.post("", **{kind: JOHN})

    data = response.json()["data"]
    assert response.status_code == 201
    assert data["object"] == "customer"
    assert re.fullmatch("[A-Za-z0-9]{16}", data["customer_id"])
    assert {field: data[field] for field in JOHN} == JOHN
    assert abs(data["created_at"] - time.time()) < 3
    [stored] = sandbox.customers()
    assert stored["customer_id"] == data["customer_id"]
    assert stored["created_by_request"] == 1


def test_fields_that_were_not_sent_are_null(client):
    data = client.create({"email": "john@example.com", "name": "", "city": None}).json()["data"]

    assert all(data[field] is None for field in JOHN if field != "email")
    assert data["card"] == data["charge"] == {"data": []}


def test_unknown_fields_are_ignored_and_numbers_become_text(client):
    data = client.create({"phone": 5417543010, "loyalty": "gold"}).json()["data"]

    assert data["phone"] == "5417543010"
    assert "loyalty" not in data


def test_two_customers_may_share_an_email(client, sandbox):
    ids = {client.create().json()["data"]["customer_id"] for _ in range(2)}

    assert len(ids) == 2
    assert sandbox.stats()["customers"] == {"1": 2}


def test_responses_can_follow_the_guide(client, sandbox):
    sandbox.settings(id_style="guide", time_style="guide", create_status=200)

    response = client.create()

    data = response.json()["data"]
    assert response.status_code == 200
    assert "customer_id" not in data
    assert data["id"] == sandbox.customers()[0]["customer_id"]
    assert data["real_id"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", data["created_at"])


def test_get_patch_and_delete(client, sandbox):
    path = "/" + client.create().json()["data"]["customer_id"]

    assert client.get(path).json()["data"]["name"] == "John Smith"
    zip_code = client.get(path).json()["data"]["zip"]
    changed = client.patch(path, json={"name": "Jane Smith", "zip": None})
    assert changed.status_code == 200
    assert changed.json()["data"]["name"] == "Jane Smith"
    assert client.get(path).json()["data"]["zip"] == zip_code, "empty values are ignored"
    assert client.patch(path, json={"phone": "none"}).status_code == 422
    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(path).status_code == client.delete(path).status_code == 404
    assert client.get(path).json()["status"] == "error"
    assert sandbox.customers() == []


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("empty_values", ["ignored", "cleared"])
def test_empty_values_clear_a_field_or_not(client, sandbox, empty_values, empty):
    sandbox.settings(empty_values=empty_values)
    path = "/" + client.create().json()["data"]["customer_id"]
    client.patch(path, json={"city": "Springfield"})
    shown = client.patch(path, json={"city": empty}).json()["data"]["city"]
    assert shown == client.get(path).json()["data"]["city"] == (None if empty_values == "cleared" else "Springfield")


def test_a_deleted_customer_may_still_be_read(client, sandbox):
    sandbox.settings(deletion="soft")
    path = "/" + client.create().json()["data"]["customer_id"]
    client.delete(path)
    assert client.get(path).status_code == 200
    assert client.patch(path, json={"name": "Jane Smith"}).status_code == 404
    assert sandbox.customers() == []


def test_merchants_do_not_see_each_others_customers(client, sandbox):
    path = "/" + client.create().json()["data"]["customer_id"]

    with Client(sandbox, make_token(sub="2")) as other:
        assert other.get(path).status_code == 404
        assert other.rows() == []
    assert len(sandbox.customers("1")) == 1
    assert sandbox.customers("2") == []


def test_unknown_methods_are_a_405_and_unknown_paths_a_404(client, sandbox):
    assert client.put("", json={}).status_code == 405
    assert requests.get(f"{sandbox.origin}/v1/charges", timeout=5).status_code == 404


def test_concurrent_clients(sandbox):
    def create_some(_):
        with Client(sandbox) as session:
            return [session.create().json()["data"]["customer_id"] for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        ids = [one for some in pool.map(create_some, range(8)) for one in some]

    assert len(set(ids)) == 160
    assert {row["customer_id"] for row in sandbox.customers()} == set(ids)
    assert sandbox.stats()["posts"]["created"] == 160


def test_by_default_an_idempotency_key_is_ignored(client, sandbox):
    ids = {client.create(headers={"Idempotency-Key": "k"}).json()["data"]["customer_id"] for _ in range(2)}

    assert len(ids) == 2
    assert [post["idempotency_key"] for post in sandbox.log()] == ["k", "k"]


def test_an_idempotency_key_can_replay_the_first_response(client, sandbox):
    sandbox.settings(idempotency="replay")

    first = client.create(headers={"Idempotency-Key": "k"})
    again = client.create({"name": "Jane Smith"}, headers={"Idempotency-Key": "k"})

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert client.create().json()["data"]["customer_id"] != first.json()["data"]["customer_id"]
    assert [post["outcome"] for post in sandbox.log()] == ["created", "replayed", "created"]


@pytest.mark.parametrize(
    ("how", "stored"),
    [
        ("upper", " JOHN SMITH"),
        ("lower", " john smith"),
        ("title", " John Smith"),
        ("trim", "john Smith"),
        ("drop", None),
    ],
)
def test_values_can_be_altered_when_they_are_stored(client, sandbox, how, stored):
    sandbox.settings(alter={"name": how})

    response = client.create({"name": " john Smith", "city": "new york"})

    data = response.json()["data"]
    assert (data["name"], data["city"]) == (stored, "new york")
    assert sandbox.customers()[0]["name"] == stored


@pytest.mark.parametrize(
    ("how", "stored"),
    [
        ("cut", "A customer of our shop, Reykja"),
        ("no_hash", " A customer of our shop, Reykjavík k7q2m9 "),
        ("alphanumeric", "AcustomerofourshopReykjavíkk7q2m9"),
        ("upper", " A CUSTOMER OF OUR SHOP, REYKJAVÍK #K7Q2M9 "),
        ("trim", "A customer of our shop, Reykjavík #k7q2m9"),
        ("append", " A customer of our shop, Reykjavík #k7q2m9  (web)"),
        ("drop", None),
    ],
)
def test_a_description_can_be_damaged(client, sandbox, how, stored):
    sandbox.settings(alter={"description": how})
    sent = " A customer of our shop, Reykjavík #k7q2m9 "

    created = client.create({"description": sent.strip() if how == "cut" else sent}).json()["data"]

    assert created["description"] == stored
    assert client.rows()[0]["description"] == stored


def test_a_post_can_be_merged_by_email(client, sandbox):
    sandbox.settings(shared_email="merged")
    first = client.create()

    merged = client.create({"name": "Another Name", "email": JOHN["email"]})
    others = [client.create({"name": "No Email"}) for _ in range(2)]

    assert (first.status_code, merged.status_code) == (201, 200)
    assert merged.json()["data"] == first.json()["data"]
    assert [response.status_code for response in others] == [201, 201]
    assert [post["outcome"] for post in sandbox.log()] == ["created", "merged", "created", "created"]
