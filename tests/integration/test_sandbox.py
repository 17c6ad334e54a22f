"""The sandbox over real HTTP: what a client sees of it, beside what its state says was done."""

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest
import requests
from requests.exceptions import ChunkedEncodingError, ConnectionError, JSONDecodeError, ReadTimeout

from payarc_provider.sandbox import SANDBOX_TOKEN, SandboxServer, make_token

pytest_plugins = ["payarc_provider.sandbox.pytest_plugin"]

JOHN = {
    "name": "John Smith",
    "email": "john@example.com",
    "description": "Donut shop customer",
    "send_email_address": "invoices@example.com",
    "cc_email_address": "copies@example.com",
    "country": "US",
    "address_1": "103 Mason Street",
    "address_2": "2nd Floor",
    "city": "New York",
    "state": "NY",
    "zip": "10469-2345",
    "phone": "5417543010",
}
NO_ANSWER = (ConnectionError, ChunkedEncodingError)


class Client(requests.Session):
    """A plain client with a token, for one sandbox."""

    def __init__(self, sandbox, token=SANDBOX_TOKEN):
        super().__init__()
        self.base = f"{sandbox.url}/customers"
        self.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})

    def request(self, method, path="", *args, **options):
        options.setdefault("timeout", 5)
        options.setdefault("allow_redirects", False)
        return super().request(method, self.base + path, *args, **options)

    def create(self, fields=JOHN, **options):
        return self.post("", json=fields, **options)

    def rows(self, **query):
        return self.get("", params=query).json()["data"]


@pytest.fixture
def sandbox(payarc_sandbox):
    return payarc_sandbox


@pytest.fixture
def client(sandbox):
    with Client(sandbox) as session:
        yield session


def eventually(condition, seconds=2.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


class TestCustomers:
    @pytest.mark.parametrize("kind", ["json", "data"])
    def test_a_json_and_a_form_body_make_the_same_customer(self, client, sandbox, kind):
        answer = client.post("", **{kind: JOHN})

        data = answer.json()["data"]
        assert answer.status_code == 201
        assert data["object"] == "customer"
        assert re.fullmatch("[A-Za-z0-9]{16}", data["customer_id"])
        assert {field: data[field] for field in JOHN} == JOHN
        assert abs(data["created_at"] - time.time()) < 3
        [stored] = sandbox.customers()
        assert stored["customer_id"] == data["customer_id"]
        assert stored["created_by_request"] == 1

    def test_what_was_not_sent_is_null(self, client):
        data = client.create({"email": "john@example.com", "name": "", "city": None}).json()["data"]

        assert all(data[field] is None for field in JOHN if field != "email")
        assert data["card"] == data["charge"] == {"data": []}

    def test_fields_that_payarc_does_not_know_are_ignored_and_numbers_become_text(self, client):
        data = client.create({"phone": 5417543010, "loyalty": "gold"}).json()["data"]

        assert data["phone"] == "5417543010"
        assert "loyalty" not in data

    def test_two_customers_may_share_an_email(self, client, sandbox):
        ids = {client.create().json()["data"]["customer_id"] for _ in range(2)}

        assert len(ids) == 2
        assert sandbox.stats()["customers"] == {"1": 2}

    def test_the_guides_styles(self, client, sandbox):
        sandbox.settings(id_style="guide", time_style="guide", create_status=200)

        answer = client.create()

        data = answer.json()["data"]
        assert answer.status_code == 200
        assert "customer_id" not in data
        assert data["id"] == sandbox.customers()[0]["customer_id"]
        assert data["real_id"] == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", data["created_at"])

    def test_read_update_delete(self, client, sandbox):
        path = "/" + client.create().json()["data"]["customer_id"]

        assert client.get(path).json()["data"]["name"] == "John Smith"
        changed = client.patch(path, json={"name": "Jane Smith", "zip": None})
        assert changed.status_code == 200
        assert changed.json()["data"]["name"] == "Jane Smith"
        assert client.get(path).json()["data"]["zip"] is None
        assert client.patch(path, json={"phone": "none"}).status_code == 422
        deleted = client.delete(path)
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert client.get(path).status_code == client.delete(path).status_code == 404
        assert client.get(path).json()["status"] == "error"
        assert sandbox.customers() == []

    def test_a_merchant_never_sees_anothers_customers(self, client, sandbox):
        path = "/" + client.create().json()["data"]["customer_id"]

        with Client(sandbox, make_token(sub="2")) as other:
            assert other.get(path).status_code == 404
            assert other.rows() == []
        assert len(sandbox.customers("1")) == 1
        assert sandbox.customers("2") == []

    def test_other_methods_and_paths(self, client, sandbox):
        assert client.put("", json={}).status_code == 405
        assert requests.get(f"{sandbox.origin}/v1/charges", timeout=5).status_code == 404

    def test_many_clients_at_once(self, sandbox):
        def create_some(_):
            with Client(sandbox) as session:
                return [session.create().json()["data"]["customer_id"] for _ in range(20)]

        with ThreadPoolExecutor(8) as pool:
            ids = [one for some in pool.map(create_some, range(8)) for one in some]

        assert len(set(ids)) == 160
        assert {row["customer_id"] for row in sandbox.customers()} == set(ids)
        assert sandbox.stats()["posts"]["created"] == 160


class TestLists:
    def test_pages_are_newest_first(self, client, sandbox):
        ids = [row["customer_id"] for row in sandbox.seed([{"name": f"Number {'x' * n}"} for n in range(30)])]

        first = client.get("", params={"page": 1}).json()
        second = client.get("", params={"page": 2}).json()

        assert [row["customer_id"] for row in first["data"] + second["data"]] == ids[::-1]
        links = first["meta"]["pagination"].pop("links")
        assert first["meta"]["pagination"] == {
            "total": 30,
            "count": 25,
            "per_page": 25,
            "current_page": 1,
            "total_pages": 2,
        }
        assert set(links) == {"next"}
        assert requests.get(links["next"], headers=client.headers, timeout=5).json()["data"] == second["data"]
        assert set(second["meta"]["pagination"]["links"]) == {"previous"}

    def test_limits_of_a_page(self, client, sandbox):
        sandbox.seed([{}] * 120)

        assert len(client.rows(limit=1000)) == 100
        assert len(client.rows(limit=100, page=2)) == 20
        assert client.rows(limit=100, page=3) == []
        assert len(client.rows(limit="many", page="-1")) == 25

    def test_an_empty_list(self, client):
        body = client.get("").json()

        assert body["data"] == []
        assert body["meta"]["pagination"]["total"] == 0
        assert body["meta"]["pagination"]["total_pages"] == 1

    def test_the_order_is_that_of_the_times_then_of_creation(self, client, sandbox):
        made = sandbox.seed({"created_at": moment} for moment in (300, 100, 200, 200, 400, 100))

        in_order = sorted(made, key=lambda row: (row["created_at"], row["real_id"]), reverse=True)
        assert [row["customer_id"] for row in client.rows()] == [row["customer_id"] for row in in_order]

    def test_removal_from_the_middle(self, client, sandbox):
        made = sandbox.seed({"created_at": moment} for moment in (1, 2, 2, 2, 3))

        client.delete("/" + made[2]["customer_id"])

        expected = [made[i]["customer_id"] for i in (4, 3, 1, 0)]
        assert [row["customer_id"] for row in client.rows()] == expected

    def test_rows_of_one_second_in_another_order_on_each_page(self, client, sandbox):
        sandbox.settings(shuffle_same_second=True)
        sandbox.seed([{"created_at": 100 + n // 20} for n in range(60)])

        orders = [[row["customer_id"] for row in client.rows(limit=100)] for _ in range(3)]
        times = [row["created_at"] for row in client.rows(limit=100)]
        pages = [{row["customer_id"] for row in client.rows(limit=10, page=page)} for page in range(1, 7)]

        assert orders[0] != orders[1] != orders[2]
        assert set(orders[0]) == set(orders[1])
        assert times == sorted(times, reverse=True)
        assert [len(page) for page in pages] == [10] * 6
        assert len(set.union(*pages)) < 60  # some stand on two pages, others on none

    def test_a_list_can_be_held_back(self, client, sandbox):
        sandbox.settings(delay_list=0.1)

        assert client.get("").elapsed.total_seconds() >= 0.1
        assert client.create().elapsed.total_seconds() < 0.1


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value", "text"),
        [
            ("name", "Jo", "The name must be at least 3 characters."),
            ("name", "J" * 51, "The name may not be greater than 50 characters."),
            ("email", "nobody", "The email must be a valid email address."),
            ("email", "nobody@nowhere", "The email must be a valid email address."),
            ("email", "n" * 29 + "@example.com", "The email may not be greater than 40 characters."),
            ("description", "Four", "The description must be at least 5 characters."),
            ("address_1", "1 St", "The address 1 must be at least 5 characters."),
            ("country", "U.S.A.", "The country may only contain letters."),
            ("zip", "1O469", "The zip format is invalid."),
            ("zip", "10469-23456", "The zip may not be greater than 10 characters."),
            ("phone", "+1 541", "The phone must be a number."),
            ("phone", "123456789012", "The phone may not be greater than 11 characters."),
            ("city", ["New York"], "The city must be a string."),
        ],
    )
    def test_the_guides_rules(self, client, sandbox, field, value, text):
        answer = client.create(JOHN | {field: value})

        body = answer.json()
        assert answer.status_code == body["status_code"] == 422
        assert body["message"] == "The given data was invalid."
        assert body["errors"] == {field: [text]}
        assert sandbox.customers() == []
        assert sandbox.log()[0]["outcome"] == "rejected"

    @pytest.mark.parametrize(
        "name", ["O'Neil", "Jean-Luc", "Dr. Åsa Ünal, Jr.", "Smith & Sons", "José", "नमस्ते", "{{ 7*7 }}"]
    )
    def test_names_may_hold_more_than_letters(self, client, name):
        assert client.create({"name": name}).json()["data"]["name"] == name

    def test_refusals_on_request(self, client, sandbox):
        sandbox.settings(taken={"email": ["taken@example.com"]}, required=["name"])

        answer = client.create({"email": "taken@example.com"})

        assert answer.json()["errors"] == {
            "email": ["The email has already been taken."],
            "name": ["The name field is required."],
        }

    def test_the_other_envelopes(self, client, sandbox):
        sandbox.settings(envelope="409-list")
        listed = client.create({"name": "Jo"})
        sandbox.settings(envelope="409-message")
        told = client.create({"name": "Jo"})

        assert listed.status_code == told.status_code == 409
        assert listed.json() == ["The name must be at least 3 characters."]
        assert told.json()["message"] == "The name must be at least 3 characters."
        assert "errors" not in told.json()

    @pytest.mark.parametrize("body", ["{", "[]", '"x"', b"\xff"])
    def test_a_body_that_cannot_be_read(self, client, sandbox, body):
        answer = client.post("", data=body, headers={"Content-Type": "application/json"})

        assert answer.status_code == answer.json()["status_code"] == 400
        assert sandbox.customers() == []


class TestTokens:
    def test_a_token_looks_like_payarcs(self):
        head, claims, signature = (
            base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in make_token(sub="7").split(".")
        )

        assert json.loads(head) == {"typ": "JWT", "alg": "RS256"}
        assert set(json.loads(claims)) == {"aud", "jti", "iat", "nbf", "exp", "sub", "scopes"}
        assert json.loads(claims)["sub"] == "7"
        assert json.loads(claims)["exp"] > time.time() + 4 * 365 * 86_400
        assert signature == b"sandbox-signature"
        assert make_token() != make_token()

    @pytest.mark.parametrize(
        "token", ["opaque", "a.b.c", "a.b." + SANDBOX_TOKEN.split(".")[2], make_token(expires_in=-1)]
    )
    def test_what_is_no_token(self, sandbox, token):
        with Client(sandbox, token) as client:
            answer = client.create()

        assert (answer.status_code, answer.json()) == (401, {"error": "Unauthenticated."})
        assert sandbox.customers() == []
        assert sandbox.stats()["posts"]["unauthorized"] == 1

    def test_none_at_all(self, sandbox):
        assert requests.get(f"{sandbox.url}/customers", timeout=5).status_code == 401

    def test_further_tokens_and_revoked_ones(self, client, sandbox):
        sandbox.settings(tokens={"opaque": "1"})
        client.create()
        sandbox.revoke(SANDBOX_TOKEN)

        assert client.get("").status_code == 401
        with Client(sandbox, "opaque") as other:
            assert len(other.rows()) == 1


class TestTime:
    def test_every_answer_has_one_date(self, client, sandbox):
        answers = [
            client.create(),
            client.get("/unknown"),
            client.create({"name": "Jo"}),
            requests.get(f"{sandbox.url}/customers", timeout=5),
            requests.get(f"{sandbox.origin}/nowhere", timeout=5),
            requests.get(f"{sandbox.origin}/_sandbox/stats", timeout=5),
        ]

        for answer in answers:
            [date] = answer.raw.headers.getlist("Date")
            assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 2

    def test_payarcs_clock_may_be_another(self, client, sandbox):
        sandbox.settings(clock_offset=-3600)

        answer = client.create()

        for moment in (parsedate_to_datetime(answer.headers["Date"]).timestamp(), answer.json()["data"]["created_at"]):
            assert abs(moment + 3600 - time.time()) < 3

    def test_latency(self, client, sandbox):
        sandbox.settings(latency=0.1, jitter=0.01)

        assert 0.1 <= client.create().elapsed.total_seconds() < 0.5


class TestRateLimit:
    def test_a_window_is_used_up_and_opens_again(self, client, sandbox):
        sandbox.settings(rate_limit=2, rate_window=0.3)

        answers = [client.create() for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"2"}
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
        assert answers[2].json() == {"message": "Too Many Attempts."}
        assert answers[2].headers["Retry-After"] == "1"
        assert -0.5 < int(answers[2].headers["X-RateLimit-Reset"]) - time.time() < 1.5
        assert "Retry-After" not in answers[0].headers
        time.sleep(0.3)
        assert client.create().status_code == 201
        assert len(sandbox.customers()) == 3
        assert sandbox.stats()["rate_limited"] == sandbox.stats()["posts"]["rate_limited"] == 1

    def test_windows_are_per_endpoint_and_per_token(self, client, sandbox):
        sandbox.settings(rate_limit=1)

        assert client.create().status_code == 201
        assert client.create().status_code == 429
        assert client.get("").status_code == 200
        assert client.get("/unknown").status_code == 404
        assert client.get("/another").status_code == 429
        with Client(sandbox, make_token()) as other:
            assert other.create().status_code == 201

    def test_one_window_per_user_covers_all_endpoints_and_tokens(self, client, sandbox):
        sandbox.settings(rate_limit=3, rate_limit_per="user")

        assert client.create().headers["X-RateLimit-Remaining"] == "2"
        assert client.get("").headers["X-RateLimit-Remaining"] == "1"
        with Client(sandbox, make_token()) as same_user, Client(sandbox, make_token("2")) as other_user:
            assert same_user.get("/unknown").headers["X-RateLimit-Remaining"] == "0"
            assert client.create().status_code == same_user.get("").status_code == 429
            assert other_user.create().status_code == 201

    def test_without_a_limit_there_are_no_headers(self, client):
        assert not any(name.lower().startswith("x-ratelimit") for name in client.create().headers)

    def test_forms_of_retry_after(self, client, sandbox):
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


class TestFaults:
    @pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("kind", ["lost", "cut"])
    def test_no_answer(self, client, sandbox, kind, made):
        sandbox.faults([{"kind": f"{kind}_{'after' if made else 'before'}"}])

        with pytest.raises(NO_ANSWER) as caught:
            client.create()

        assert isinstance(caught.value, ChunkedEncodingError) == (kind == "cut")
        assert "IncompleteRead" in str(caught.value) or "reset by peer" in str(caught.value)
        self.check_made(client, sandbox, made)

    @pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
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
    def test_an_answer_that_tells_nothing(self, client, sandbox, rule, status, text, made):
        sandbox.faults([rule | {"kind": f"{rule['kind']}_{'after' if made else 'before'}"}])

        answer = client.create()

        assert answer.status_code == status
        assert answer.text.startswith(text)
        self.check_made(client, sandbox, made)

    def check_made(self, client, sandbox, made):
        [post] = sandbox.log()
        assert post["outcome"] == ("created" if made else "not_created")
        assert [row["customer_id"] for row in sandbox.customers()] == ([post["customer_id"]] if made else [])
        assert not post["id_sent"]
        assert sandbox.stats()["posts"]["lost"] == int(made)
        assert client.create().status_code == 201
        assert sandbox.log()[1]["id_sent"]

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("unauthorized", 401), ("forbidden", 403), ("not_found", 404), ("redirect", 302), ("rate_limited", 429)],
    )
    def test_an_answer_instead(self, client, sandbox, kind, status):
        sandbox.faults([{"kind": kind, "seconds": 7}])

        answer = client.create()

        assert answer.status_code == status
        assert sandbox.customers() == []
        assert answer.headers.get("Retry-After") == ("7" if kind == "rate_limited" else None)
        assert answer.headers.get("Location") == ("/login" if kind == "redirect" else None)
        if kind == "not_found":
            with pytest.raises(JSONDecodeError):
                answer.json()

    def test_hanging_before(self, client, sandbox):
        sandbox.faults([{"kind": "hang_before", "seconds": 0.2}])

        with pytest.raises(ReadTimeout):
            client.create(timeout=0.05)

        assert sandbox.customers() == []
        assert sandbox.log()[0]["outcome"] == "open"
        eventually(lambda: len(sandbox.customers()) == 1)
        eventually(lambda: sandbox.stats()["unanswered"] == 1)
        assert sandbox.log()[0]["status"] is None

    def test_hanging_after(self, client, sandbox):
        sandbox.faults([{"kind": "hang_after", "seconds": 0.2, "times": 2}])

        with pytest.raises(ReadTimeout):
            client.create(timeout=0.05)
        assert len(sandbox.customers()) == 1
        assert client.create().status_code == 201

    @pytest.mark.parametrize("status", [None, 503])
    def test_a_commit_that_comes_late(self, client, sandbox, status):
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

    def test_nothing_comes_late_after_a_reset(self, client, sandbox):
        sandbox.faults([{"kind": "late_commit", "seconds": 0.1, "status": 500}])
        client.create()

        sandbox.reset()

        time.sleep(0.2)
        assert sandbox.customers() == []

    def test_half_a_request_is_none(self, client, sandbox):
        def half():
            yield b"name=John"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            client.post("", data=half(), headers={"Content-Type": "application/x-www-form-urlencoded"})

        client.create()
        assert [row["name"] for row in sandbox.customers()] == ["John Smith"]
        assert sandbox.stats()["posts"]["received"] == 1


class TestFaultRules:
    def statuses(self, client, count):
        return [client.create().status_code for _ in range(count)]

    def test_once_is_the_default(self, client, sandbox):
        sandbox.faults([{"kind": "status_before"}])

        assert self.statuses(client, 3) == [500, 201, 201]

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
    def test_which_requests_are_hit(self, client, sandbox, rule, hits):
        sandbox.faults([{"kind": "status_before", **rule}])

        assert [i for i, status in enumerate(self.statuses(client, 6)) if status == 500] == hits
        assert sandbox.faults()[0]["fired"] == len(hits)
        assert sandbox.stats()["faults"] == ({"status_before": len(hits)} if hits else {})

    def test_a_record_can_be_picked(self, client, sandbox):
        sandbox.faults([{"kind": "status_before", "match": {"email": "jane@example.com"}}])

        assert client.create().status_code == 201
        assert client.post("", data={"email": "jane@example.com"}).status_code == 500

    def test_reads_can_fail(self, client, sandbox):
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

    def test_the_first_rule_that_fires_decides(self, client, sandbox):
        sandbox.faults([{"kind": "status_before", "skip": 1}, {"kind": "html_before", "times": 2}])

        assert self.statuses(client, 4) == [502, 500, 502, 201]

    def test_clearing(self, client, sandbox):
        sandbox.faults([{"kind": "status_before", "times": None}])
        sandbox.clear_faults()

        assert self.statuses(client, 1) == [201]

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
    def test_a_wrong_rule_is_refused(self, sandbox, rule):
        with pytest.raises(ValueError, match="fault"):
            sandbox.faults([{"kind": "lost_after"}, rule])
        assert sandbox.faults() == []

    def test_a_seed_repeats_chance_and_ids(self):
        def run():
            with SandboxServer(seed=7) as sandbox, Client(sandbox) as client:
                sandbox.faults([{"kind": "status_before", "probability": 0.5}])
                return self.statuses(client, 12), [row["customer_id"] for row in sandbox.customers()]

        first, second = run(), run()
        assert first == second
        assert set(first[0]) == {201, 500}


class TestModes:
    def test_an_idempotency_key_is_ignored_as_far_as_anyone_knows(self, client, sandbox):
        ids = {client.create(headers={"Idempotency-Key": "k"}).json()["data"]["customer_id"] for _ in range(2)}

        assert len(ids) == 2
        assert [post["idempotency_key"] for post in sandbox.log()] == ["k", "k"]

    def test_or_the_first_answer_is_given_again(self, client, sandbox):
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
    def test_values_altered_in_storage(self, client, sandbox, how, stored):
        sandbox.settings(alter={"name": how})

        answer = client.create({"name": " john Smith", "city": "new york"})

        data = answer.json()["data"]
        assert (data["name"], data["city"]) == (stored, "new york")
        assert sandbox.customers()[0]["name"] == stored

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
    def test_a_wrong_setting_is_refused(self, sandbox, change):
        before = sandbox.settings()
        with pytest.raises(ValueError, match=next(iter(change))):
            sandbox.settings(**change)
        assert sandbox.settings() == before


class TestControl:
    def test_everything_over_http(self, client, sandbox):
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
    def test_what_cannot_be_is_a_400(self, sandbox, path, body):
        answer = requests.post(f"{sandbox.origin}/_sandbox/{path}", json=body, timeout=5)

        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_stats(self, client, sandbox):
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

    def test_the_log_tells_which_post_made_what(self, client, sandbox):
        client.create(JOHN | {"description": "ref #one"})
        client.create(JOHN | {"description": "bad"})

        first, second = sandbox.log()
        assert (first["sequence"], second["sequence"]) == (1, 2)
        assert first["description"] == "ref #one"
        assert first["customer_id"] == sandbox.customers()[0]["customer_id"]
        assert first["arrived"] <= first["committed"] <= second["arrived"] <= time.monotonic()
        assert (second["customer_id"], second["status"]) == (None, 422)


class TestServer:
    def test_the_fixture_leads_airflow_here(self, payarc_sandbox):
        connection = json.loads(os.environ["AIRFLOW_CONN_PAYARC_DEFAULT"])

        assert connection == {"conn_type": "payarc", "password": SANDBOX_TOKEN, "host": payarc_sandbox.url}
        assert json.loads(payarc_sandbox.connection_json("t", timeout=2)) == connection | {
            "password": "t",
            "extra": {"timeout": 2},
        }

    def test_it_starts_and_stops_at_once_even_while_requests_hang(self):
        begun = time.monotonic()
        sandbox = SandboxServer(latency=0.0)
        sandbox.start()
        assert time.monotonic() - begun < 0.3
        sandbox.faults([{"kind": "hang_after"}])
        failed = threading.Event()

        def create():
            with Client(sandbox) as client, pytest.raises(ConnectionError):
                client.create()
            failed.set()

        thread = threading.Thread(target=create)
        thread.start()
        eventually(lambda: len(sandbox.customers()) == 1)

        begun = time.monotonic()
        sandbox.stop()

        assert time.monotonic() - begun < 1
        assert failed.wait(1)

    def test_customers_outlive_the_server_in_a_file(self, tmp_path):
        path = tmp_path / "state.db"
        with SandboxServer(state=path, seed=1) as sandbox, Client(sandbox) as client:
            kept, changed, deleted = (client.create().json()["data"]["customer_id"] for _ in range(3))
            client.patch(f"/{changed}", json={"name": "Jane Smith"})
            client.delete(f"/{deleted}")

        with SandboxServer(state=path, seed=1) as sandbox, Client(sandbox) as client:
            new = client.create().json()["data"]["customer_id"]
            assert [row["customer_id"] for row in client.rows()] == [new, changed, kept]
            assert client.get(f"/{changed}").json()["data"]["name"] == "Jane Smith"
            assert [row["created_by_request"] for row in sandbox.customers()] == [1, 2, 3]
            sandbox.reset()

        with SandboxServer(state=path) as sandbox:
            assert sandbox.customers() == []


class TestCommandLine:
    def start(self, *arguments):
        command = [sys.executable, "-m", "payarc_provider.sandbox", "--port", "0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return process, [process.stdout.readline().strip() for _ in range(4)]

    def test_it_says_where_it_is_and_ends_when_told(self):
        process, lines = self.start("--rate-limit", "30", "--id-style", "guide", "--time-style", "guide")
        url = re.fullmatch(r"PayArc sandbox: (http://127\.0\.0\.1:\d+/v1)", lines[0])[1]
        token = re.fullmatch(r"token: +(\S+)", lines[1])[1]
        connection = json.loads(re.search(r"AIRFLOW_CONN_PAYARC_DEFAULT='(.*)'", lines[2])[1])
        control = re.search(r"http\S+", lines[3])[0]

        answer = requests.post(f"{url}/customers", json=JOHN, headers={"Authorization": f"Bearer {token}"}, timeout=5)
        stats = requests.get(control, timeout=5).json()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(5)

        assert answer.json()["data"]["id"]
        assert answer.headers["X-RateLimit-Remaining"] == "29"
        assert connection == {"conn_type": "payarc", "password": token, "host": url}
        assert stats["customers"] == {"1": 1}
        assert time.monotonic() - begun < 1

    def test_what_was_answered_survives_a_kill(self, tmp_path):
        process, lines = self.start("--state", str(tmp_path / "state.db"))
        url = lines[0].split()[-1]
        headers = {"Authorization": f"Bearer {SANDBOX_TOKEN}"}

        ids = [
            requests.post(f"{url}/customers", json=JOHN, headers=headers, timeout=5).json()["data"]["customer_id"]
            for _ in range(5)
        ]
        process.kill()
        process.wait(5)

        with SandboxServer(state=tmp_path / "state.db") as sandbox:
            assert [row["customer_id"] for row in sandbox.customers()] == ids

    def test_airflow_is_not_needed(self):
        check = "import sys, payarc_provider.sandbox.__main__; assert 'airflow' not in sys.modules"

        subprocess.run([sys.executable, "-c", check], check=True)


def test_paging_holds_under_random_histories(client, sandbox):
    chance = random.Random(3)
    model = []
    for _ in range(60):
        [made] = sandbox.seed([{"created_at": chance.randrange(10)}])
        model.append(made)
        if chance.random() < 0.3:
            gone = model.pop(chance.randrange(len(model)))
            client.delete("/" + gone["customer_id"])

    model.sort(key=lambda row: (row["created_at"], row["real_id"]), reverse=True)
    pages = [row["customer_id"] for page in range(1, 10) for row in client.rows(limit=7, page=page)]
    assert pages == [row["customer_id"] for row in model]
