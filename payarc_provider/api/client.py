"""PayArc's customer API, one call per request.

The client never repeats a request by itself, with one exception: after a 401, it sends the request once more if a newer
token is available. This is safe because PayArc checks the token before it processes a request.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from payarc_provider.api.errors import error_for, unknown_outcome
from payarc_provider.api.fields import path_id, read_customer_id
from payarc_provider.api.http import Request, Response, Transport, check_base_url
from payarc_provider.api.origin import is_from_payarc, read_object
from payarc_provider.api.rate_limit import RateLimiter
from payarc_provider.api.token import clean_token
from payarc_provider.api.tracing import NO_TRACER, Attributes, Tracer
from payarc_provider.exceptions import (
    PayarcConfigError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcRefused,
    PayarcUnknownOutcome,
)

__all__ = ["MAX_PAGE_SIZE", "CustomerPage", "PayarcClient"]

#: The most customers that PayArc lists on a page (observed).
MAX_PAGE_SIZE = 100

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True, repr=False)
class CustomerPage:
    """One page of the list, newest first. Each customer has ``customer_id``.

    :param total: number of customers on all pages; like ``total_pages``, None if PayArc does not report it
    :param unreadable: where entries without an id were left out: for each, how many customers of the page precede it
    :param date: PayArc's clock when it sent the page, in Unix seconds; None if the response has no date
    """

    customers: list[dict[str, Any]]
    page: int
    total: int | None
    total_pages: int | None
    date: float | None
    unreadable: tuple[int, ...] = ()


class PayarcClient:
    """PayArc's customer endpoints. Safe to share between threads; each has its own connection.

    Every method may raise `PayarcAuthError`, `PayarcRateLimited`, `PayarcConnectionFailed`, `PayarcUnknownOutcome`,
    `PayarcUnexpectedAnswer` and `PayarcRefused`, and for a single customer `PayarcNotFound`.

    The client never waits for the rate limit and reserves nothing. A caller that respects the limit waits until
    ``limiter.acquire`` returns 0.0, and calls ``limiter.release`` if ``before_send`` raised.

    :param base_url: see `check_base_url`
    :param token: returns the access token; called with True after a 401, to get a newer one if there is one
    :param timeout: seconds from handing over a request to the end of its response
    :param verify: True, False, or the path of a CA bundle
    :param limiter: learns from every response; a new one by default
    :param tracer: receives a span for every request sent
    :param conn_id: the Airflow connection that errors name; None if there is none
    :param verbatim_reasons: whether errors show PayArc's texts as they are; see `payarc_provider.api.reasons`
    """

    def __init__(
        self,
        base_url: str,
        token: Callable[[bool], str],
        *,
        timeout: float = 30.0,
        verify: bool | str = True,
        limiter: RateLimiter | None = None,
        tracer: Tracer = NO_TRACER,
        conn_id: str | None = None,
        verbatim_reasons: bool = False,
    ) -> None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise PayarcConfigError("timeout must be a number of seconds above 0: fix it in the connection's extra")
        self.base_url = check_base_url(base_url)
        self.limiter = limiter or RateLimiter()
        self.conn_id = conn_id
        self._verbatim_reasons = verbatim_reasons
        self._token = token
        self._tracer = tracer
        self._host = urlsplit(self.base_url).hostname or ""
        self._transport = Transport(self.base_url, timeout=timeout, verify=verify)

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to be pickled or copied.

        :raises TypeError: always
        """
        raise TypeError("a PayarcClient cannot be pickled or copied: create one in the process that uses it")

    @property
    def requests_sent(self) -> Counter[str]:
        """Number of requests sent, by method; those that could not connect do not count."""
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

        :param fields: as `fields.clean` returns them
        :param idempotency_key: sent as a header; it is unknown whether PayArc honors it for customers
        :param before_send: called directly before each time the request goes out; if it raises, that request was not
            sent
        :param attempt: the number of this POST for its record, for the span
        :raises PayarcConfigError: the idempotency key cannot be sent in a header
        """
        if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise PayarcConfigError("idempotency_key must be 1 to 255 visible ASCII characters: choose another one")
        request = Request("POST", fields=fields, idempotency_key=idempotency_key)
        return _customer(request, self._request(request, before_send, {"payarc.attempt": attempt}))

    def get_customer(self, customer_id: str) -> dict[str, Any]:
        """One customer, with ``customer_id``.

        :raises PayarcConfigError: ``customer_id`` is not a customer id
        """
        request = Request("GET", path_id(customer_id))
        return _customer(request, self._request(request))

    def update_customer(
        self, customer_id: str, fields: Mapping[str, str], *, before_send: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Change the given fields with one PATCH, and return the updated customer.

        :param fields: as `fields.clean` returns them; an empty value clears the field, if PayArc does not ignore it
        :param before_send: as for `create_customer`
        :raises PayarcConfigError: ``customer_id`` is not a customer id
        """
        request = Request("PATCH", path_id(customer_id), fields=fields)
        return _customer(request, self._request(request, before_send))

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer with one DELETE.

        :raises PayarcConfigError: ``customer_id`` is not a customer id
        """
        self._request(Request("DELETE", path_id(customer_id)))

    def list_page(self, page: int, limit: int = MAX_PAGE_SIZE) -> CustomerPage:
        """One page of the list, newest first (observed).

        :param page: from 1
        :param limit: customers per page, 1 to 100; PayArc may return fewer
        :raises PayarcUnknownOutcome: the response is not that page: not a list, another page
        """
        if not 1 <= limit <= MAX_PAGE_SIZE or page < 1:
            raise PayarcConfigError(f"page must be 1 or more, and the page size 1 to {MAX_PAGE_SIZE}: fix the argument")
        request = Request("GET", params={"limit": str(limit), "page": str(page)})
        return _page(self._request(request), page)

    def list_customers(self, page_size: int = MAX_PAGE_SIZE) -> Iterator[dict[str, Any]]:
        """All customers, newest first; each page is requested when it is reached.

        Customers created meanwhile shift the pages; duplicates from shifted pages are skipped.
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
                raise unknown_outcome("GET", "PayArc's list has the same customers on every page")

    def ping(self) -> float | None:
        """Make one cheap authenticated call.

        :return: PayArc's clock in Unix seconds; None if the response has no date
        """
        return self.list_page(1, limit=1).date

    def send(self, request: Request) -> Response:
        """Send a request once and return the response, whatever its status: for callers that judge it themselves.

        :raises PayarcUnknownOutcome: no complete response
        :raises PayarcConnectionFailed: nothing was sent
        """
        attributes = {"http.request.method": request.method, "server.address": self._host}
        return self._send(request, clean_token(self._token(False)), None, attributes)

    def _request(
        self,
        request: Request,
        before_send: Callable[[], None] | None = None,
        attributes: Attributes | None = None,
    ) -> Response:
        """Send a request and return its response. After a 401, send it once more if the token has changed.

        :raises PayarcError: the error that the response means
        """
        span_attributes: dict[str, Any] = {
            "http.request.method": request.method,
            "http.request.resend_count": 0,
            "server.address": self._host,
            **(attributes or {}),
        }
        try:
            tokens = [token := clean_token(self._token(False))]
            response = self._send(request, token, before_send, span_attributes)
            if response.status == 401 and (request.method == "GET" or is_from_payarc(response)):
                newer = clean_token(self._token(True))
                if newer != token:
                    resent = span_attributes | {"http.request.resend_count": 1}
                    tokens.append(newer)
                    response = self._send(request, newer, before_send, resent)
            failure = error_for(request, response, tokens, verbatim=self._verbatim_reasons)
            if failure is not None:
                raise failure
        except PayarcError as error:
            error.about(None if isinstance(error, PayarcRefused) else self.conn_id)
            raise
        return response

    def _send(
        self, request: Request, token: str, before_send: Callable[[], None] | None, attributes: Attributes
    ) -> Response:
        """Send a request once, within a span, and let the limiter learn from the response."""
        with self._tracer.span(request.endpoint, attributes) as span:
            sent = self.limiter.depart(request.endpoint)
            try:
                response = self._transport.send(request, token, before_send)
            except PayarcUnknownOutcome:
                self.limiter.learn(sent, None, {})
                raise
            except PayarcConnectionFailed:
                self.limiter.release(request.endpoint)
                raise
            # A gateway's 429 says nothing about PayArc's limit.
            is_ours = response.status != 429 or request.method == "GET" or is_from_payarc(response)
            self.limiter.learn(sent, *((response.status, response.headers) if is_ours else (None, {})))
            span.set_attributes({"http.response.status_code": response.status})
            return response


def _customer(request: Request, response: Response) -> dict[str, Any]:
    data = _with_id((read_object(response.text) or {}).get("data"))
    if data is None:
        text = f"PayArc returned {response.status} without a customer id"
        raise unknown_outcome(request.method, text, status=response.status)
    return data


def _page(response: Response, page: int) -> CustomerPage:
    body = read_object(response.text) or {}
    data, meta = body.get("data"), body.get("meta")
    pagination = meta.get("pagination") if isinstance(meta, dict) else None
    pagination = pagination if isinstance(pagination, dict) else {}
    if not isinstance(data, list):
        raise unknown_outcome("GET", "PayArc did not return a list of customers", status=response.status)
    customers: list[dict[str, Any]] = []
    unreadable: list[int] = []
    for item in data:
        customer = _with_id(item)
        if customer is None:
            unreadable.append(len(customers))
        else:
            customers.append(customer)
    current = _whole_number(pagination.get("current_page"))
    if current is not None and current != page:
        text = f"PayArc returned page {current} of its list instead of {page}"
        raise unknown_outcome("GET", text, status=response.status)
    return CustomerPage(
        customers=customers,
        page=page,
        total=_whole_number(pagination.get("total")),
        total_pages=_total_pages(pagination),
        date=response.date,
        unreadable=tuple(unreadable),
    )


def _total_pages(pagination: Mapping[str, object]) -> int | None:
    """How many pages there are: by the page size that PayArc has really used, which may be below the one asked for."""
    total, per_page = _whole_number(pagination.get("total")), _whole_number(pagination.get("per_page"))
    if total is None or not per_page:
        return _whole_number(pagination.get("total_pages"))
    return max(1, -(-total // per_page))


def _with_id(customer: object) -> dict[str, Any] | None:
    """The customer with ``customer_id``; None if it is not an object or has no id."""
    found = read_customer_id(customer) if isinstance(customer, dict) else None
    return {**customer, "customer_id": found} if isinstance(customer, dict) and found is not None else None


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
