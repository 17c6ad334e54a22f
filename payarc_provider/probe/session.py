"""Sends the probe's requests: never more than the limit, at PayArc's pace, and deletes what was created."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from payarc_provider.api import http
from payarc_provider.api.client import MAX_PAGE_SIZE, PayarcClient
from payarc_provider.api.errors import error_for
from payarc_provider.api.fields import path_id, read_customer_id
from payarc_provider.api.http import Request
from payarc_provider.api.origin import read_object
from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConfigError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcRefused,
    PayarcRunStopped,
    PayarcUnknownOutcome,
)
from payarc_provider.probe.people import FakePeople

MAX_REQUESTS = 60
_SPARE = 6  # requests that only the clean-up may use, besides one for each customer
_LONGEST_WAIT = 300.0  # seconds
_MAX_429 = 5  # in a row
_STEP = 0.2  # seconds after which a wait notices a signal


class Interrupted(Exception):
    """SIGTERM or Ctrl+C."""


class OutOfRequests(PayarcRunStopped):
    """The probe has used all its requests: wait until nobody else uses the account's rate limit, and run it again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a response shows of the rate limit. Times are seconds of `http.now`.

    :param counted: False for a 429
    :param limit: requests per window; like ``remaining``, None if the response does not show it
    :param left: the least and the most seconds until the window ends
    """

    endpoint: str
    counted: bool
    limit: int | None
    remaining: int | None
    left: tuple[float, float] | None
    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """One response of PayArc's, or the error that stands for it.

    :param status: 0 if no complete response arrived
    :param body: the JSON object; empty if the body is something else
    :param error: what the response means, unless it is a success
    """

    status: int
    body: Mapping[str, Any]
    error: PayarcError | None

    @property
    def customer(self) -> dict[str, Any] | None:
        """The customer that a successful response shows."""
        data = self.body.get("data")
        return data if self.error is None and isinstance(data, dict) and read_customer_id(data) else None

    @property
    def customers(self) -> list[dict[str, Any]] | None:
        """The customers of a successful list."""
        data = self.body.get("data")
        if self.error is not None or not isinstance(data, list):
            return None
        return [entry for entry in data if isinstance(entry, dict) and read_customer_id(entry)]

    def pagination(self, name: str) -> int | None:
        """A number of the list's ``meta.pagination``."""
        meta = self.body.get("meta")
        found = meta.get("pagination") if isinstance(meta, dict) else None
        value = found.get(name) if isinstance(found, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class ProbeSession:
    """The requests of one probe.

    :param signals: how many signals to stop have arrived: after one, only the clean-up may send; after two, nothing
    :param say: prints a line about the progress
    :param minute: seconds to wait after a 429 that does not say how long; PayArc's guide counts by the minute
    """

    def __init__(
        self,
        client: PayarcClient,
        people: FakePeople,
        *,
        signals: Callable[[], int] = lambda: 0,
        say: Callable[[str], None] = lambda line: None,
        minute: float = 60.0,
    ) -> None:
        self.requests = self.created = 0
        self.seen: list[Seen] = []
        self.rejected: list[Answer] = []
        self._client = client
        self._people = people
        self._signals = signals
        self._say = say
        self._minute = minute
        self._cleaning = False
        self._open: dict[str, str] = {}  # id → what to call it in messages
        self._lost: list[str] = []  # email, or else name, of people whose creation got no usable response
        self._stays: list[str] = []  # what the clean-up cannot delete, in words

    @property
    def left(self) -> int:
        """How many requests may still be sent, besides those that the clean-up needs."""
        return MAX_REQUESTS - self.requests - _SPARE - len(self._open) - 2 * len(self._lost)

    @property
    def open_ids(self) -> list[str]:
        """The customers that this probe has created and not deleted."""
        return list(self._open)

    def page(self, number: int = 1, limit: int = MAX_PAGE_SIZE, **params: str) -> Answer:
        """One page of the list."""
        return self.send(Request("GET", params={"limit": str(limit), "page": str(number), **params}))

    def get(self, customer_id: str) -> Answer:
        """Read a customer."""
        return self.send(Request("GET", path_id(customer_id)))

    def patch(self, customer_id: str, fields: Mapping[str, str]) -> Answer:
        """Change a customer of this probe's."""
        self._check_own(customer_id)
        return self.send(Request("PATCH", path_id(customer_id), fields=fields))

    def create(self, fields: Mapping[str, str], idempotency_key: str | None = None) -> Answer:
        """Create a customer, which the clean-up will delete."""
        called = fields.get("email", fields["name"])
        try:
            answer = self.send(Request("POST", fields=fields, idempotency_key=idempotency_key))
        except PayarcAuthError:
            self._lost.append(called)  # a proxy may have answered for PayArc
            raise
        customer = answer.customer
        if customer is not None:
            self._take_note(str(read_customer_id(customer)), called, is_ours=self._people.is_ours(customer))
        elif not isinstance(answer.error, PayarcRefused):
            self._lost.append(called)
        return answer

    def delete(self, customer_id: str) -> Answer:
        """Delete a customer of this probe's."""
        self._check_own(customer_id)
        answer = self.send(Request("DELETE", path_id(customer_id)))
        if answer.error is None or isinstance(answer.error, PayarcNotFound):
            self._open.pop(customer_id, None)
        return answer

    def send(self, request: Request, *, once: bool = False) -> Answer:
        """Send a request; after a 429, send it again when PayArc allows it.

        :param once: return the 429 instead
        :raises PayarcAuthError: PayArc does not accept the token
        :raises PayarcConnectionFailed: could not connect
        :raises OutOfRequests: the other requests are needed for the clean-up
        :raises Interrupted: the probe was told to stop; the request was not sent
        """
        for _ in range(_MAX_429):
            waited = 0.0
            while not once and (wait := self._client.limiter.acquire(request.endpoint)) > 0:
                self.sleep(wait, "the rate limit", waited)
                waited += wait
            answer = self._send_once(request)
            if not isinstance(answer.error, PayarcRateLimited) or once:
                return answer
            if not self.seen[-1].limit and self._is_first_429():
                self._try_another_endpoint(request)
            if answer.error.retry_after is None:
                self.sleep(self._minute, "the rate limit, which does not say when it ends")
        raise PayarcRunStopped(f"PayArc answered {_MAX_429} requests in a row with a 429: run the probe again later")

    def sleep(self, seconds: float, why: str, before: float = 0.0) -> None:
        """Wait.

        :param before: how long it has been waiting for the same reason
        :raises PayarcRunStopped: that would be too long
        :raises Interrupted: the probe was told to stop
        """
        if before + seconds > _LONGEST_WAIT:
            raise PayarcRunStopped(f"waiting for {why} would take {before + seconds:.0f} s: run the probe again later")
        if seconds > 2:
            self._say(f"waiting {seconds:.0f} s for {why}")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check_signals()
            time.sleep(min(left, _STEP))

    def send_until_429(self) -> None:
        """Read pages of one customer until PayArc answers 429, or no request is left."""
        while self.left > 1 and all(one.counted for one in self.seen):
            request = Request("GET", params={"limit": "1", "page": "1"})
            self.send(request, once=True)
            if not self.seen[-1].counted:
                self._try_another_endpoint(request)

    def clean_up(self) -> list[str]:
        """Delete what the probe has created and is still there; returns what could not be deleted, in words."""
        reason = "PayArc did not confirm it"
        self._cleaning = True
        try:
            for customer_id in self.open_ids:
                self.delete(customer_id)
                if customer_id in self._open:
                    self.delete(customer_id)
            if self.created or self._lost or self.rejected:
                self._delete_listed()
        except Interrupted:
            reason = "the probe was interrupted"
        except PayarcError as error:
            reason = str(error)
        finally:
            self._cleaning = False
        left = [f"{customer_id} ({called}) was not deleted: {reason}" for customer_id, called in self._open.items()]
        left += [f"{called} may exist: PayArc did not confirm its creation" for called in self._lost]
        return left + self._stays

    def _check_own(self, customer_id: str) -> None:
        if customer_id not in self._open:
            raise PayarcRunStopped("the probe changes and deletes only customers that it has created")

    def _take_note(self, customer_id: str, called: str, *, is_ours: bool) -> None:
        if not _is_usable(customer_id):
            self._stays.append(f"{called} has an id that cannot be used in a request")
        elif is_ours:
            self.created += customer_id not in self._open
            self._open.setdefault(customer_id, called)
        else:  # it may have been there before
            self._stays.append(f"{called} may exist: PayArc's response did not show the probe's values")

    def _delete_listed(self) -> None:
        """Delete customers of this probe's that the list still shows, such as those whose creation got no response."""
        page = self.page()
        pages = page.pagination("total_pages") or 1
        listed = [*(page.customers or ())]
        if pages > 1:
            listed += self.page(pages).customers or ()  # some lists show the oldest customers first
        for customer in filter(self._people.is_ours, listed):
            customer_id = str(read_customer_id(customer))
            if not _is_usable(customer_id):
                continue
            lost = [called for called in self._lost if called in (customer.get("email"), customer.get("name"))]
            self._open.setdefault(customer_id, lost[0] if lost else "listed again")
            self.delete(customer_id)
            if lost and customer_id not in self._open:
                self._lost.remove(lost[0])

    def _send_once(self, request: Request) -> Answer:
        self._check_signals()
        if self.requests >= MAX_REQUESTS or (not self._cleaning and self.left < 1 + (request.method == "POST")):
            raise OutOfRequests
        self.requests += 1
        sent_at = http.now()
        try:
            response = self._client.send(request)
        except PayarcUnknownOutcome as error:
            return Answer(0, {}, error)
        except PayarcConnectionFailed:
            raise
        except BaseException:
            self._client.limiter.release(request.endpoint)  # or the clean-up would wait for this request
            raise
        limit, remaining = (http.count(response.headers, f"X-RateLimit-{name}") for name in ("Limit", "Remaining"))
        left = http.retry_in(response.headers)
        counted = response.status != 429
        self.seen.append(Seen(request.endpoint, counted, limit, remaining, left, sent_at, http.now()))
        failure = error_for(request, response)
        if isinstance(failure, PayarcAuthError):
            raise failure.about(self._client.conn_id)
        answer = Answer(response.status, read_object(response.text) or {}, failure)
        if isinstance(failure, PayarcRefused) and not isinstance(failure, PayarcNotFound):
            self.rejected.append(answer)
        return answer

    def _is_first_429(self) -> bool:
        return sum(not seen.counted for seen in self.seen) == 1

    def _try_another_endpoint(self, request: Request) -> None:
        """Where no header shows how PayArc counts, whether another endpoint may still send does."""
        reads_one = request.endpoint == "GET /customers/{id}"
        other = Request("GET", params={"limit": "1"}) if reads_one else Request("GET", self._people.marker)
        self.send(other, once=True)

    def _check_signals(self) -> None:
        if self._signals() > self._cleaning:
            raise Interrupted


def _is_usable(customer_id: str) -> bool:
    try:
        return path_id(customer_id) == customer_id
    except PayarcConfigError:
        return False
