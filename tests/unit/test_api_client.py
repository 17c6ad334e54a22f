"""The customer endpoints: one request each, and how responses are read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import requests
import requests_mock as rm

from payarc_provider import exceptions as errors
from payarc_provider.api.client import CustomerPage, PayarcClient
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.api.reasons import HIDDEN

BASE = "https://testapi.payarc.net/v1"
URL = f"{BASE}/customers"
DATE = {"Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
FIELDS = {"name": "Ann O'Hara", "email": "ann@x.com"}


@pytest.fixture
def payarc(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with rm.Mocker() as mocker:
        yield mocker


@pytest.fixture
def client():
    return PayarcClient(BASE, lambda refresh: "t0ken")


def listed(ids, page=1, total=None, pages=None):
    meta = {"pagination": {"total": total, "current_page": page, "total_pages": pages}}
    return {"data": [{"customer_id": one} for one in ids], "meta": meta}


def test_create_is_one_post(payarc, client):
    payarc.post(URL, status_code=201, json={"data": {"id": "cus_K1", "name": "Ann O'Hara", "new_thing": 1}})
    created = client.create_customer(FIELDS, idempotency_key="key-1")
    assert created == {"id": "cus_K1", "customer_id": "K1", "name": "Ann O'Hara", "new_thing": 1}
    (request,) = payarc.request_history
    assert request.text == "name=Ann+O%27Hara&email=ann%40x.com"
    assert request.headers["Idempotency-Key"] == "key-1"
    assert request.headers["Authorization"] == "Bearer t0ken"
    assert (request.verify, request.timeout) == (True, (10.0, 30.0))
    assert client.requests_sent == {"POST": 1}


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_with_an_id_is_a_success(payarc, client, status):
    payarc.post(URL, status_code=status, json={"data": {"customer_id": "K1", "id": "other"}})
    assert client.create_customer(FIELDS)["customer_id"] == "K1"
    assert "Idempotency-Key" not in payarc.last_request.headers


@pytest.mark.parametrize(
    "body", ['{"data": {}}', '{"data": {"id": null}}', '{"data": []}', '{"id": "x"}', "{}", "<html>"]
)
def test_a_success_without_an_id_is_unknown(payarc, client, body):
    payarc.post(URL, status_code=201, text=body)
    with pytest.raises(errors.PayarcUnknownOutcome) as caught:
        client.create_customer(FIELDS)
    assert caught.value.status == 201
    assert caught.value.may_have_acted
    assert payarc.call_count == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_no_request_is_repeated_after_an_error_status(payarc, client, status):
    payarc.post(URL, status_code=status, headers={"Retry-After": "0"})
    with pytest.raises(errors.PayarcError):
        client.create_customer(FIELDS)
    assert payarc.call_count == 1


@pytest.mark.parametrize(
    ("exc", "kind"),
    [(requests.ReadTimeout, errors.PayarcUnknownOutcome), (requests.ConnectTimeout, errors.PayarcConnectionFailed)],
)
def test_no_request_is_repeated_after_a_failure(payarc, client, exc, kind):
    payarc.post(URL, exc=exc)
    with pytest.raises(kind):
        client.create_customer(FIELDS)
    assert payarc.call_count == 1
    assert client.requests_sent == ({"POST": 1} if kind is errors.PayarcUnknownOutcome else {})


def test_a_rejection_does_not_quote_what_was_sent(payarc, client):
    body = {
        "status": "error",
        "message": "Ann O'Hara is wrong",
        "errors": {"name": ["Ann O'Hara?"]},
        "status_code": 422,
    }
    payarc.post(URL, status_code=422, json=body)
    payarc.patch(f"{URL}/K1", status_code=422, json=body)
    for call in (lambda: client.create_customer(FIELDS), lambda: client.update_customer("K1", FIELDS)):
        with pytest.raises(errors.PayarcRefused) as caught:
            call()
        assert caught.value.message == "… is wrong"
        assert caught.value.errors == {"name": [HIDDEN]}


def test_404_on_a_customer_and_on_the_collection(payarc, client):
    missing = {"message": "The route v1/customers/K1 could not be found."}
    payarc.get(f"{URL}/K1", status_code=404, json=missing)
    payarc.post(URL, status_code=404, json=missing)
    with pytest.raises(errors.PayarcNotFound):
        client.get_customer("K1")
    with pytest.raises(errors.PayarcUnexpectedAnswer):
        client.create_customer(FIELDS)


def test_get_update_delete(payarc, client):
    payarc.get(f"{URL}/K1", json={"data": {"id": "K1"}})
    payarc.patch(f"{URL}/K1", json={"data": {"id": "K1", "city": "Rome"}})
    payarc.delete(f"{URL}/K1", [{"status_code": 204}, {"status_code": 200, "json": {}}])
    assert client.get_customer("cus_K1") == {"id": "K1", "customer_id": "K1"}
    assert client.update_customer("K1", {"city": "Rome"})["city"] == "Rome"
    assert payarc.last_request.text == "city=Rome"
    client.delete_customer("K1")
    client.delete_customer("K1")
    assert client.requests_sent == {"GET": 1, "PATCH": 1, "DELETE": 2}


def test_a_bad_id_makes_no_request(payarc, client):
    for call in (client.get_customer, client.delete_customer, lambda one: client.update_customer(one, {})):
        with pytest.raises(errors.PayarcConfigError):
            call("../charges")
    assert payarc.call_count == 0


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é", "k" * 256])
def test_a_bad_idempotency_key_makes_no_request(payarc, client, key):
    with pytest.raises(errors.PayarcConfigError):
        client.create_customer(FIELDS, idempotency_key=key)
    assert payarc.call_count == 0


class Tokens:
    def __init__(self, *tokens: str) -> None:
        self.tokens, self.asked = list(tokens), []

    def __call__(self, refresh: bool) -> str:
        self.asked.append(refresh)
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


UNAUTHENTICATED = {"status_code": 401, "json": {"error": "Unauthenticated."}}


def test_a_gateways_401_is_not_followed_by_another_post(payarc):
    payarc.post(URL, status_code=401, text="<html>")
    with pytest.raises(errors.PayarcUnknownOutcome):
        PayarcClient(BASE, Tokens("old", "new")).create_customer(FIELDS)
    assert payarc.call_count == 1


def test_a_gateways_429_does_not_end_the_window(payarc):
    payarc.post(URL, status_code=429, headers={"Retry-After": "600"}, text="<html>")
    client = PayarcClient(BASE, Tokens("one"))
    with pytest.raises(errors.PayarcUnknownOutcome):
        client.create_customer(FIELDS)
    assert client.limiter.acquire("POST /customers") == 0.0


def test_a_401_is_sent_once_more_with_a_new_token(payarc):
    tokens, sending = Tokens("old", "new"), []
    payarc.post(URL, [UNAUTHENTICATED, {"status_code": 201, "json": {"data": {"id": "K1"}}}])
    client = PayarcClient(BASE, tokens)
    client.create_customer(FIELDS, before_send=lambda: sending.append(payarc.call_count))
    assert tokens.asked == [False, True]
    assert [request.headers["Authorization"] for request in payarc.request_history] == ["Bearer old", "Bearer new"]
    assert sending == [0, 1]


@pytest.mark.parametrize(("tokens", "calls"), [(("same",), 1), (("old", "new"), 2), (("old", "Bearer old"), 1)])
def test_a_401_is_not_sent_a_third_time_nor_with_the_same_token(payarc, tokens, calls):
    payarc.post(URL, status_code=401, json={"error": "Unauthenticated."})
    with pytest.raises(errors.PayarcAuthError) as caught:
        PayarcClient(BASE, Tokens(*tokens)).create_customer(FIELDS)
    assert caught.value.status == 401
    assert payarc.call_count == calls


def test_no_other_status_asks_for_a_newer_token(payarc):
    tokens = Tokens("old", "new")
    payarc.get(f"{URL}/K1", status_code=403)
    with pytest.raises(errors.PayarcAuthError):
        PayarcClient(BASE, tokens).get_customer("K1")
    assert tokens.asked == [False]


def test_before_send_can_stop_the_second_request_too(payarc):
    payarc.post(URL, **UNAUTHENTICATED)
    seen = []

    def fence() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise LookupError

    with pytest.raises(LookupError):
        PayarcClient(BASE, Tokens("old", "new")).create_customer(FIELDS, before_send=fence)
    assert payarc.call_count == 1


def test_a_bad_token_makes_no_request_and_is_not_shown(payarc):
    with pytest.raises(errors.PayarcConfigError) as caught:
        PayarcClient(BASE, lambda refresh: "s3cret\nx").create_customer(FIELDS)
    assert "s3cret" not in str(caught.value)
    assert payarc.call_count == 0


def test_a_page(payarc, client):
    payarc.get(f"{URL}?limit=2&page=3", json=listed(["c", "d"], page=3, total=9, pages=5), headers=DATE)
    page = client.list_page(3, limit=2)
    assert page == CustomerPage([{"customer_id": "c"}, {"customer_id": "d"}], 3, 9, 5, 1_700_000_000.0)
    payarc.get(f"{URL}?limit=100&page=1", json={"data": [{"id": "x"}], "meta": {"include": []}})
    assert client.list_page(1) == CustomerPage([{"id": "x", "customer_id": "x"}], 1, None, None, None)


@pytest.mark.parametrize(("total", "read"), [(0, 0), (7, 7), (-1, None), ("7", None), (True, None), (7.5, None)])
def test_invalid_totals_are_none(payarc, client, total, read):
    payarc.get(URL, json=listed(["x"], total=total))
    assert client.list_page(1).total == read


def test_entries_without_an_id_are_left_out_of_a_page_and_their_places_reported(payarc, client):
    payarc.get(URL, json={"data": [None, {"id": "x"}, "text", {"name": "no id"}, {"id": "y"}, {}]})
    page = client.list_page(1)
    assert [customer["customer_id"] for customer in page.customers] == ["x", "y"]
    assert page.unreadable == (0, 1, 1, 2)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"data": None}, {"data": {}}, [], "<html>", listed(["x"], page=2),
    ],
)  # fmt: skip
def test_an_unusable_page_is_an_unknown_outcome(payarc, client, body):
    payarc.get(URL, text=body if isinstance(body, str) else json.dumps(body))
    with pytest.raises(errors.PayarcUnknownOutcome) as caught:
        client.list_page(1)
    assert not caught.value.may_have_acted


@pytest.mark.parametrize(("page", "limit"), [(0, 10), (1, 0), (1, 101)])
def test_invalid_page_arguments_make_no_request(payarc, client, page, limit):
    with pytest.raises(errors.PayarcConfigError):
        client.list_page(page, limit)
    assert payarc.call_count == 0


@pytest.mark.parametrize(
    ("pagination", "pages"),
    [
        ({"total": 60, "per_page": 25, "total_pages": 1}, 3),  # cut from 100, but counted by 100
        ({"total": 60, "per_page": 25}, 3),
        ({"total": 50, "per_page": 25, "total_pages": 2}, 2),
        ({"total": 0, "per_page": 25, "total_pages": 1}, 1),
        ({"total": 60, "total_pages": 3}, 3),
        ({"per_page": 25, "total_pages": 3}, 3),
        ({"total": 60, "per_page": 0, "total_pages": 3}, 3),
        ({"total": 60, "per_page": "25", "total_pages": 3}, 3),
        ({"total": 60, "per_page": -1, "total_pages": None}, None),
    ],
)
def test_the_number_of_pages_follows_from_the_page_size_that_payarc_has_used(payarc, client, pagination, pages):
    payarc.get(URL, json={"data": [{"id": "a"}], "meta": {"pagination": {"current_page": 1, **pagination}}})
    assert client.list_page(1).total_pages == pages


def test_a_list_whose_pages_are_cut_is_read_to_its_end(payarc, client):
    def answer(request, _):
        number = int(request.qs["page"][0])
        ids = [f"c{place}" for place in range(60)][25 * number - 25 : 25 * number]
        pagination = {"total": 60, "per_page": 25, "current_page": number, "total_pages": 1}
        return {"data": [{"id": one} for one in ids], "meta": {"pagination": pagination}}

    payarc.get(URL, json=answer)
    assert len({one["customer_id"] for one in client.list_customers(100)}) == 60


def test_the_list_is_lazy_and_ends_after_its_last_page(payarc, client):
    payarc.get(f"{URL}?page=1", json=listed(["e", "d"], 1, 5, 3))
    payarc.get(f"{URL}?page=2", json=listed(["d", "c"], 2, 5, 3))  # moved on by one meanwhile
    payarc.get(f"{URL}?page=3", json=listed(["b", "a"], 3, 5, 3))
    customers = client.list_customers(page_size=2)
    assert payarc.call_count == 0
    assert next(customers)["customer_id"] == "e"
    assert payarc.call_count == 1
    assert [one["customer_id"] for one in customers] == ["d", "c", "b", "a"]
    assert payarc.call_count == 3
    assert payarc.last_request.qs["limit"] == ["2"]


def test_a_page_of_duplicates_does_not_end_the_list(payarc, client):
    payarc.get(f"{URL}?page=1", json=listed(["b"], 1, 3, 3))
    payarc.get(f"{URL}?page=2", json=listed(["b"], 2, 3, 3))
    payarc.get(f"{URL}?page=3", json=listed(["a"], 3, 3, 3))
    assert [one["customer_id"] for one in client.list_customers(1)] == ["b", "a"]


def test_a_list_without_totals_ends_at_an_empty_page(payarc, client):
    payarc.get(f"{URL}?page=1", json={"data": [{"id": "b"}]})
    payarc.get(f"{URL}?page=2", json={"data": [{"id": "a"}]})
    payarc.get(f"{URL}?page=3", json={"data": []})
    assert [one["customer_id"] for one in client.list_customers()] == ["b", "a"]


def test_a_list_that_never_ends_is_an_error(payarc, client):
    payarc.get(URL, json={"data": [{"id": "b"}]})
    with pytest.raises(errors.PayarcUnknownOutcome, match="every page"):
        list(client.list_customers())
    assert payarc.call_count == 2


def test_ping_is_one_cheap_get(payarc, client):
    payarc.get(URL, json=listed([]), headers=DATE)
    assert client.ping() == 1_700_000_000.0
    assert payarc.call_count == 1
    assert payarc.last_request.qs["limit"] == ["1"]


def test_ping_needs_a_response_of_payarc(payarc, client):
    payarc.get(URL, text="<html>welcome</html>", headers=DATE)
    with pytest.raises(errors.PayarcUnknownOutcome):
        client.ping()


def test_the_limiter_learns_from_every_response(payarc):
    limiter = RateLimiter(clock=lambda: 0.0)
    client = PayarcClient(BASE, lambda refresh: "t", limiter=limiter)
    limit = {"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "1"}
    payarc.post(URL, status_code=201, json={"data": {"id": "K1"}}, headers=limit)
    payarc.get(f"{URL}/K1", status_code=404, headers=limit, json={"message": "no"})
    assert limiter.acquire("POST /customers") == 0.0
    client.create_customer(FIELDS)
    with pytest.raises(errors.PayarcNotFound):
        client.get_customer("K1")
    assert limiter.acquire("POST /customers") == 0.0
    assert limiter.acquire("POST /customers") > 0.0


def test_a_request_without_a_response_is_no_longer_in_flight(payarc):
    limiter = RateLimiter(clock=lambda: 0.0)
    payarc.post(URL, exc=requests.ReadTimeout)
    assert limiter.acquire("POST /customers") == 0.0
    assert limiter.acquire("POST /customers") > 0.0
    with pytest.raises(errors.PayarcUnknownOutcome):
        PayarcClient(BASE, lambda refresh: "t", limiter=limiter).create_customer(FIELDS)
    assert limiter.acquire("POST /customers") == 0.0


def test_a_request_that_could_not_connect_is_released(payarc):
    limiter = RateLimiter(clock=lambda: 0.0)
    client = PayarcClient(BASE, lambda refresh: "t", limiter=limiter)
    payarc.post(
        URL, [{"json": {"data": {"id": "K1"}}, "headers": {"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "2"}}]
    )
    assert limiter.acquire("POST /customers") == 0.0
    client.create_customer(FIELDS)
    payarc.post(URL, exc=requests.ConnectTimeout)
    assert limiter.acquire("POST /customers") == 0.0
    with pytest.raises(errors.PayarcConnectionFailed):
        client.create_customer(FIELDS)
    assert [limiter.acquire("POST /customers") == 0.0 for _ in range(3)] == [True, True, False]


def test_the_caller_releases_what_before_send_stops(payarc):
    limiter = RateLimiter(clock=lambda: 0.0)
    assert limiter.acquire("POST /customers") == 0.0
    with pytest.raises(ZeroDivisionError):
        PayarcClient(BASE, lambda refresh: "t", limiter=limiter).create_customer(
            {}, before_send=lambda: 1 // 0 and None
        )
    assert limiter.acquire("POST /customers") > 0.0
    limiter.release("POST /customers")
    assert limiter.acquire("POST /customers") == 0.0


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_the_timeout_must_be_positive_and_finite(timeout):
    with pytest.raises(errors.PayarcConfigError, match="timeout"):
        PayarcClient(BASE, lambda refresh: "t", timeout=timeout)


def test_settings_reach_the_request(payarc, monkeypatch):
    payarc.get(f"{URL}/K1", json={"data": {"id": "K1"}})
    client = PayarcClient(BASE, lambda refresh: "t", timeout=0.5, verify=False)
    client.get_customer("K1")
    assert (payarc.last_request.verify, payarc.last_request.timeout) == (False, (0.5, 0.5))
    closed = []
    monkeypatch.setattr(requests.Session, "close", lambda session: closed.append(1))
    client.close()
    assert len(closed) == 1


def test_the_base_url_is_checked():
    assert PayarcClient("https://testapi.payarc.net", lambda refresh: "t").base_url == BASE
    with pytest.raises(errors.PayarcConfigError):
        PayarcClient("http://testapi.payarc.net/v1", lambda refresh: "t")


def test_the_client_does_not_import_airflow():
    code = (
        "import sys, payarc_provider.api.client as c; sys.exit(any(m.split('.')[0] == 'airflow' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
