"""Questions about PayArc's list of customers: its pages, order, times and search, and what it embeds."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

from payarc_provider.api.client import MAX_PAGE_SIZE
from payarc_provider.api.fields import created_between, read_customer_id
from payarc_provider.probe.creating import Subject, text_of
from payarc_provider.probe.findings import Certainty, Finding
from payarc_provider.probe.session import Answer, ProbeSession

_PARAMETERS = ("email", "search", "q", "filter[email]")
_EMBEDDED = ("card", "cards", "charge", "charges", "bank_account", "bank_accounts")
_GUIDE_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}")
_MANY = 5  # moments of creation, from which the order of a list is certain


def distinct_times(answer: Answer) -> int:
    """How many different moments of creation a page shows."""
    return len(set(_times(answer)))


def page_size(answer: Answer) -> Finding:
    """The most customers on a page, from a list that was asked for `MAX_PAGE_SIZE`."""
    topic = "Page size"
    rows, per_page, total = answer.customers or [], answer.pagination("per_page"), answer.pagination("total")
    cap = per_page or 0
    if total is not None and len(rows) < min(cap or MAX_PAGE_SIZE, total):
        cap = len(rows)  # whatever the list says about itself
    if not cap:
        return Finding(topic, "not found out, because the list does not show it", "unknown")
    if cap >= MAX_PAGE_SIZE:
        return Finding(
            topic, f"{MAX_PAGE_SIZE}, the most that the provider asks for", settings={"page_cap": MAX_PAGE_SIZE}
        )
    meaning = f"A look-up reads {cap} customers per request, so it takes {MAX_PAGE_SIZE / cap:.0f} times the requests."
    return Finding(
        topic, f"at most {cap}, although {MAX_PAGE_SIZE} were asked for", "certain", meaning, {"page_cap": cap}
    )


def new_customers(answer: Answer, created: Collection[str]) -> Finding | None:
    """Whether the list shows customers as soon as they are created; None if they may be on another page.

    :param created: ids
    """
    total, rows = answer.pagination("total"), answer.customers or []
    listed = {read_customer_id(row) for row in rows}
    missing = len(set(created) - listed)
    if missing and (total is None or total > len(rows)):
        return None
    topic = "Delay of the list"
    if not missing:
        return Finding(
            topic, "none, new customers are listed at once", meaning="Look-ups find what a lost response has created."
        )
    meaning = "Do not rely on look-ups: the guarantee assumes that PayArc's list shows what it has created."
    return Finding(topic, f"{missing} of {len(created)} new customers were not listed at once", meaning=meaning)


def order(readings: Sequence[Answer]) -> Finding:
    """The order of the list, from several readings of its first page."""
    topic = "Order of the list"
    if any(len(set(_times(reading))) < 2 for reading in readings):
        return Finding(topic, "not found out, because the list does not show customers of two moments", "unknown")
    certainty: Certainty = "certain" if all(distinct_times(reading) >= _MANY for reading in readings) else "likely"
    if all(_falls(_times(reading)) for reading in readings):
        return Finding(
            topic, "newest first", certainty, "Look-ups can tell who was not created.", {"list_order": "newest"}
        )
    meaning = "A run with a lost response stops, and its records stay pending: a person has to resolve them."
    if all(_falls(_times(reading)[::-1]) for reading in readings):
        return Finding(topic, "oldest first", certainty, meaning, {"list_order": "oldest"})
    ids = [[read_customer_id(row) or "" for row in reading.customers or ()] for reading in readings]
    if all(each == sorted(each) for each in ids):
        return Finding(topic, "by id", "likely", meaning, {"list_order": "id"})
    if any(each != ids[0] for each in ids):
        return Finding(topic, "different each time", "likely", meaning, {"list_order": "random"})
    return Finding(topic, "neither newest nor oldest first", "certain", meaning)


def times(subject: Subject, listed: Answer) -> Finding:
    """The format of times, in the response to a creation and in the list."""
    topic = "Times"
    created = _format(subject.shown)
    formats = {_format(row) for row in listed.customers or ()} | {created}
    found = created if len(formats) == 1 else f"{created} in the response to a creation, others in the list"
    meaning = "Look-ups stop at the right customer."
    if any("without a time zone" in one for one in formats):
        meaning = "The time zone is not known, so a look-up also reads the customers of the 14 hours before."
    if any("unreadable" in one for one in formats):
        meaning = "A look-up needs two readings of the whole list."
    settings = {"time_style": _STYLES[created]} if created in _STYLES and len(formats) == 1 else {}
    return Finding(topic, found, "certain", meaning, settings)


def embedded(lists: Sequence[Answer]) -> Finding:
    """Whether listed customers embed cards, charges or bank accounts."""
    topic = "Cards in the list"
    rows = [row for one in lists for row in one.customers or ()]
    having = sum(any(_has_data(row.get(name)) for name in _EMBEDDED) for row in rows)
    if having:
        meaning = "Pages are larger. The provider keeps nothing of these fields."
        return Finding(
            topic,
            "customers are listed with cards, charges or bank accounts",
            "certain",
            meaning,
            {"embed_cards": True},
        )
    if not rows:
        return Finding(topic, "not found out, because the list is empty", "unknown")
    return Finding(topic, "none, but perhaps no listed customer has any", "likely", settings={"embed_cards": False})


def search(session: ProbeSession, subject: Subject, total: int | None) -> Finding:
    """Whether a query parameter filters the list by email: all candidates at once, then one by one.

    :param total: how many customers the list has without a filter
    """
    topic = "Search"
    email = subject.sent["email"]
    if total is None or total < 2:
        return Finding(topic, "not found out, because the list does not show how many customers there are", "unknown")

    def filters(names: Sequence[str]) -> bool:
        answer = session.page(1, 10, **dict.fromkeys(names, email))
        rows, found = answer.customers, answer.pagination("total")
        only = bool(rows) and all(text_of(row, "email").casefold() == email for row in rows or ())
        return only and (found or 0) < total

    if not filters(_PARAMETERS):
        found = f"none by {', '.join(_PARAMETERS[:-1])} or {_PARAMETERS[-1]}"
        return Finding(topic, found, "likely", "The provider needs none.", {"search": None})
    name = next((name for name in _PARAMETERS if filters([name])), None)
    if name is None:
        return Finding(topic, "some, but not by any single parameter that was tried", "likely")
    return Finding(
        topic, f"by the query parameter {name}", "certain", "The provider does not use it.", {"search": name}
    )


def _times(answer: Answer) -> list[float]:
    between = [created_between(row) for row in answer.customers or ()]
    return [sum(each) / 2 for each in between if each is not None]


def _falls(values: Sequence[float]) -> bool:
    return all(first >= second for first, second in pairwise(values))


_STYLES = {"Unix seconds": "unix", "text without a time zone": "guide"}


def _format(customer: Any) -> str:
    value, between = customer.get("created_at"), created_between(customer)
    if between is None:
        return "unreadable, or missing"
    if isinstance(value, str) and between[0] < between[1]:
        return "text without a time zone" if _GUIDE_TIME.fullmatch(value) else "other text without a time zone"
    return "Unix seconds" if isinstance(value, int) else "Unix seconds or text with a time zone"


def _has_data(value: object) -> bool:
    return bool(value.get("data", value) if isinstance(value, dict) else value)
