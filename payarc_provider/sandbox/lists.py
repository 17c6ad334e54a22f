"""Lists of customers: PayArc's pages, and the ways in which a list can mislead."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import Any
from urllib.parse import urlencode

from payarc_provider.sandbox.http import SandboxRequest, SandboxResponse, json_response
from payarc_provider.sandbox.settings import SandboxSettings
from payarc_provider.sandbox.state import SandboxState
from payarc_provider.sandbox.store import Customer

AsJson = Callable[[Customer], dict[str, Any]]

_ORDERS: dict[str, Callable[[list[Customer], Random], list[Customer]]] = {
    "newest": lambda rows, numbers: rows,
    "oldest": lambda rows, numbers: rows[::-1],
    "random": lambda rows, numbers: numbers.sample(rows, len(rows)),
    "id": lambda rows, numbers: sorted(rows, key=lambda row: row.customer_id),
}


def list_customers(state: SandboxState, merchant: str, request: SandboxRequest, as_json: AsJson) -> SandboxResponse:
    """One page of a merchant's customers, as the settings let it look.

    :param as_json: a customer as PayArc's responses show it
    """
    size = min(_positive(request.query.get("limit"), 25), state.settings.page_cap)
    page = _positive(request.query.get("page"), 1)
    email = request.query.get(state.settings.search) if state.settings.search else None
    now, key = state.now(), (merchant, size, page, email)
    if key in state.cached_pages:
        made, response = state.cached_pages[key]
        if now - made < state.settings.list_cache:
            return response
    response = _page(state, merchant, request.base, size, page, email, as_json)
    if state.settings.list_cache:
        response = response.with_headers({"Date": formatdate(int(now), usegmt=True)})
        state.cached_pages[key] = now, response
    return response


def _page(
    state: SandboxState, merchant: str, base: str, size: int, page: int, email: str | None, as_json: AsJson
) -> SandboxResponse:
    rows, total = _rows(state, merchant, (page - 1) * size, size, email)
    pages = max(1, -(-total // size))
    neighbours = {"previous": page - 1, "next": page + 1}
    pagination = {
        "total": total,
        "count": len(rows),
        "per_page": size,
        "current_page": page,
        "total_pages": pages,
        "links": {
            name: f"{base}?{urlencode({'limit': size, 'page': number})}"
            for name, number in neighbours.items()
            if 1 <= number <= pages
        },
    }
    data = [_entry(row, as_json(row), state.settings) for row in rows]
    return json_response(200, {"data": data, "meta": {"pagination": pagination}})


def _rows(state: SandboxState, merchant: str, offset: int, size: int, email: str | None) -> tuple[list[Customer], int]:
    """The customers of one page, and how many customers there are according to this list.

    :param email: list only customers with this email
    """
    settings, store = state.settings, state.store
    total = store.counts().get(merchant, 0)
    as_stored = settings.list_order == "newest" and not settings.list_lag and settings.list_only is None
    if as_stored and email is None:
        shuffle = state.shuffler if settings.shuffle_same_second else None
        return store.page(merchant, offset, size, shuffle), total
    shown = state.now() - settings.list_lag
    rows = [row for row in store.page(merchant, 0, total) if not settings.list_lag or row.created_at <= shown]
    rows = [row for row in rows if email in (None, row.fields.get("email"))]
    rows = _ORDERS[settings.list_order](rows, state.shuffler)[: settings.list_only]
    return rows[offset : offset + size], len(rows)


def _entry(row: Customer, entry: dict[str, Any], settings: SandboxSettings) -> dict[str, Any] | None:
    if row.request is None and settings.list_seeded == "null":
        return None
    if row.request is None and settings.list_seeded == "no_id":
        entry = {name: value for name, value in entry.items() if name not in ("customer_id", "id", "real_id")}
    if settings.embed_cards:
        entry |= _embedded(row)
    if settings.list_times == "missing":
        del entry["created_at"]
    elif settings.list_times == "unreadable":
        entry["created_at"] = "a while ago"
    return entry


def _embedded(row: Customer) -> dict[str, Any]:
    holder, last = row.fields.get("name"), f"{row.number % 10_000:04}"
    card = {"object": "Card", "card_holder_name": holder, "first6digit": 400000, "last4digit": last, "brand": "V"}
    account = {"object": "BankAccount", "first_name": holder, "account_number": f"*****{last}"}
    charge = {"object": "Charge", "amount": 1999, "status": "submitted_for_settlement", "card": {"data": card}}
    return {"card": {"data": [card]}, "bank_account": {"data": [account]}, "charge": {"data": [charge]}}


def _positive(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and int(text) > 0 else default
