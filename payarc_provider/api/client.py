"""PayArc's customer API, one call per request.

Nothing is repeated behind the caller's back, with one exception: a request answered 401, which PayArc gives before it
handles a request, is sent once more if there is a new token by then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from payarc_provider.api import headers as answer_headers
from payarc_provider.api.base_url import check_base_url
from payarc_provider.api.customer import customer_id as id_of
from payarc_provider.api.customer import path_id
from payarc_provider.api.errors import read_object, refusal, unknown_outcome
from payarc_provider.api.observer import SILENT, Facts, Observer
from payarc_provider.api.rate_limit import RateLimiter, Sent
from payarc_provider.api.token import clean_token
from payarc_provider.api.transport import Answer, Transport
from payarc_provider.exceptions import PayarcConfigError, PayarcConnectionFailed, PayarcUnknownOutcome

__all__ = ["LARGEST_PAGE", "CustomerPage", "PayarcClient", "check_base_url"]

#: PayArc lists at most so many customers on a page (observed).
LARGEST_PAGE = 100

_ONE = "/customers/{id}"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class CustomerPage:
    """One page of the list, newest first. Each customer has ``customer_id``.

    :param total: how many customers there are, None where PayArc does not say; so for ``total_pages``
    :param date: PayArc's clock when it answered, Unix seconds
    """

    customers: list[dict[str, Any]]
    page: int
    total: int | None
    total_pages: int | None
    date: float | None


class PayarcClient:
    """PayArc's customer endpoints. Safe to share between threads; each has a connection of its own.

    Every method may raise `PayarcAuthError`, `PayarcRateLimited`, `PayarcConnectionFailed`, `PayarcUnknownOutcome`,
    `PayarcUnexpectedAnswer`, and `PayarcRefused` (for one customer also `PayarcNotFound`).

    :param base_url: checked by `check_base_url`
    :param token: gives the access token; called with True after a 401, to get a newer one if there is one
    :param timeout: seconds from handing a request over to the end of its answer
    :param verify: True, False, or the path of a CA bundle
    :param on_answer: called with the endpoint (such as ``POST /customers`` or ``GET /customers/{id}``), the headers and
        the status of every complete answer; must not raise
    :param limiter: learns from every answer, and takes back the place of a request that could not connect. The client
        never waits and never reserves: who calls it does, and releases the place if ``before_send`` raised
    :param observer: is told of every request: endpoint, status, which attempt it is
    """

    def __init__(
        self,
        base_url: str,
        token: Callable[[bool], str],
        *,
        timeout: float = 30.0,
        verify: bool | str = True,
        on_answer: Callable[[str, Mapping[str, str], int], None] | None = None,
        limiter: RateLimiter | None = None,
        observer: Observer = SILENT,
    ) -> None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise PayarcConfigError("timeout must be a number of seconds above 0: mend it in the connection's extra")
        self.base_url = check_base_url(base_url)
        self._token = token
        self._on_answer = on_answer
        self.limiter = limiter if limiter is not None else RateLimiter()
        self._observer = observer
        self._host = urlsplit(self.base_url).hostname or ""
        self._transport = Transport(self.base_url, timeout=timeout, verify=verify)

    @property
    def requests_sent(self) -> dict[str, int]:
        """How many requests were sent, by method; those that could not connect do not count."""
        return self._transport.sent

    def close(self) -> None:
        """Close the connections of all threads; a later call opens new ones."""
        self._transport.close()

    def create_customer(
        self,
        fields: Mapping[str, str],
        *,
        idempotency_key: str | None = None,
        before_send: Callable[[], None] | None = None,
        attempt: int = 1,
    ) -> dict[str, Any]:
        """Create a customer with one POST, and return it with ``customer_id``.

        :param fields: as `fields.clean` makes them
        :param idempotency_key: sent as a header; whether PayArc honours it for customers is unknown
        :param before_send: called directly before each time the request goes out; if it raises, nothing was sent then
        :param attempt: which request for this record it is, for the observer
        """
        headers = {}
        if idempotency_key is not None:
            if not _KEY.fullmatch(idempotency_key):
                raise PayarcConfigError("an idempotency key is 1 to 255 visible ASCII characters: give another")
            headers["Idempotency-Key"] = idempotency_key
        answer = self._request(
            "POST", fields=fields, headers=headers, before_send=before_send, facts={"payarc.attempt": attempt}
        )
        return _customer("POST", answer)

    def get_customer(self, customer_id: str) -> dict[str, Any]:
        """One customer, with ``customer_id``.

        :raises PayarcConfigError: ``customer_id`` is none; so for the other calls that take it
        """
        return _customer("GET", self._request("GET", of=customer_id))

    def update_customer(self, customer_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """Change the given fields of a customer with one PATCH, and return it as it is then."""
        return _customer("PATCH", self._request("PATCH", of=customer_id, fields=fields))

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer with one DELETE."""
        self._request("DELETE", of=customer_id)

    def list_page(self, page: int, limit: int = LARGEST_PAGE) -> CustomerPage:
        """One page of the list, newest first (observed).

        :param page: from 1
        :param limit: 1 to 100; PayArc may give fewer to a page
        :raises PayarcUnknownOutcome: the answer cannot be relied on: not a list, a customer without an id, another page
        """
        if not 1 <= limit <= LARGEST_PAGE or page < 1:
            raise PayarcConfigError(
                f"a page has 1 to {LARGEST_PAGE} customers, and pages count from 1: mend the argument"
            )
        answer = self._request("GET", params={"limit": str(limit), "page": str(page)})
        return _page(answer, page)

    def list_customers(self, page_size: int = LARGEST_PAGE) -> Iterator[dict[str, Any]]:
        """All customers, newest first, one request per page as they are asked for.

        Customers created meanwhile move the list on; who is met twice for it is given once.
        """
        seen: set[str] = set()
        number = 0
        while True:
            number += 1
            page = self.list_page(number, page_size)
            new = [customer for customer in page.customers if customer["customer_id"] not in seen]
            seen.update(customer["customer_id"] for customer in new)
            yield from new
            if not page.customers or (page.total_pages is not None and number >= page.total_pages):
                return
            if not new and page.total_pages is None:
                raise unknown_outcome("GET", "PayArc's list gives the same customers on every page")

    def ping(self) -> float | None:
        """One cheap authenticated call; returns PayArc's clock in Unix seconds, None where it does not say."""
        return self.list_page(1, limit=1).date

    def _request(
        self,
        method: str,
        *,
        of: str | None = None,
        params: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        before_send: Callable[[], None] | None = None,
        facts: Facts | None = None,
    ) -> Answer:
        path = "/customers" if of is None else f"/customers/{path_id(of)}"
        endpoint = f"{method} {'/customers' if of is None else _ONE}"

        def send_once(token: str) -> Answer:
            sent = self.limiter.depart(endpoint)
            try:
                answer = self._transport.send(
                    method, path, token, params=params, fields=fields, headers=headers, before_send=before_send
                )
            except PayarcUnknownOutcome:
                self._learn(endpoint, sent, None, {})
                raise
            except PayarcConnectionFailed:
                self.limiter.release(endpoint)
                raise
            self._learn(endpoint, sent, answer.status, answer.headers)
            return answer

        def send(token: str, again: int) -> Answer:
            known: Facts = {
                "http.request.method": method,
                "http.request.resend_count": again,
                "server.address": self._host,
                **(facts or {}),
            }
            with self._observer.span(endpoint, known) as span:
                answer = send_once(token)
                span.note({"http.response.status_code": answer.status})
            return answer

        token = clean_token(self._token(False))
        answer = send(token, 0)
        if answer.status == 401:
            newer = clean_token(self._token(True))
            if newer != token:
                answer = send(newer, 1)
        error = refusal(method, answer.status, answer.headers, answer.text, collection=of is None, sent=fields)
        if error is not None:
            raise error
        return answer

    def _learn(self, endpoint: str, sent: Sent | None, status: int | None, headers: Mapping[str, str]) -> None:
        if sent is not None:
            self.limiter.learn(sent, status, headers)
        if self._on_answer is not None and status is not None:
            self._on_answer(endpoint, headers, status)


def _customer(method: str, answer: Answer) -> dict[str, Any]:
    data = (read_object(answer.text) or {}).get("data")
    found = id_of(data) if isinstance(data, dict) else None
    if not isinstance(data, dict) or found is None:
        raise unknown_outcome(method, f"PayArc answered {answer.status} without a customer id", status=answer.status)
    return {**data, "customer_id": found}


def _page(answer: Answer, asked: int) -> CustomerPage:
    body = read_object(answer.text) or {}
    data, meta = body.get("data"), body.get("meta")
    pagination = meta.get("pagination") if isinstance(meta, dict) else None
    pagination = pagination if isinstance(pagination, dict) else {}
    customers = []
    for customer in data if isinstance(data, list) else [None]:
        found = id_of(customer) if isinstance(customer, dict) else None
        if not isinstance(customer, dict) or found is None:
            raise unknown_outcome("GET", "PayArc answered with what is no list of customers", status=answer.status)
        customers.append({**customer, "customer_id": found})
    given = _whole(pagination.get("current_page"))
    if given is not None and given != asked:
        raise unknown_outcome("GET", f"PayArc gave page {given} of its list instead of {asked}", status=answer.status)
    return CustomerPage(
        customers=customers,
        page=asked,
        total=_whole(pagination.get("total")),
        total_pages=_whole(pagination.get("total_pages")),
        date=answer_headers.date(answer.headers),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
