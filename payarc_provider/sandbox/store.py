"""The store: customers in the order in which PayArc lists them, in memory and optionally in a file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

from payarc_provider.sandbox.access import make_private
from payarc_provider.sandbox.fields import RULES

_created = attrgetter("created_at")
_rank = attrgetter("rank")


@dataclass(slots=True)
class Customer:
    """One customer as it is stored.

    :param number: 1, 2, 3… in the order of creation; PayArc shows it as ``real_id``
    :param created_at: whole Unix seconds by PayArc's clock
    :param request: the number of the POST that created it (see the log); None if it was seeded
    """

    number: int
    merchant: str
    customer_id: str
    fields: dict[str, str | None]
    created_at: int
    updated_at: int
    invoice_prefix: str
    request: int | None

    @property
    def rank(self) -> tuple[int, int]:
        """Its position in lists, where the greatest rank comes first."""
        return self.created_at, self.number

    def as_json(self) -> dict[str, Any]:
        """Everything that is stored, flat, independent of the settings."""
        return {
            "customer_id": self.customer_id,
            "merchant": self.merchant,
            "real_id": self.number,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "created_by_request": self.request,
            **{name: self.fields.get(name) for name in RULES},
        }


class Store:
    """Customers by merchant and id.

    With a file, each change is committed before the method returns, so killing the sandbox loses no customer. Only one
    sandbox at a time may use a file.

    :param path: an SQLite file to load and keep up to date; None keeps customers in memory only
    """

    def __init__(self, path: Path | None = None) -> None:
        self._by_id: dict[str, Customer] = {}
        self._rows: dict[str, list[Customer]] = {}
        self._removed: dict[str, Customer] = {}
        self._file = _open(path) if path else None
        if self._file:
            for (text,) in self._file.execute("SELECT customer FROM customers ORDER BY number"):
                self._index(Customer(**json.loads(text)))
        self._last_number = max((customer.number for customer in self._by_id.values()), default=0)

    def __iter__(self) -> Iterator[Customer]:
        return iter(sorted(self._by_id.values(), key=attrgetter("number")))

    def __contains__(self, customer_id: str) -> bool:
        return customer_id in self._by_id

    def next_number(self) -> int:
        """The number for the next customer; each call returns a new one."""
        self._last_number += 1
        return self._last_number

    def add(self, customer: Customer) -> None:
        """Add a new customer."""
        self.save(customer)
        self._index(customer)

    def save(self, customer: Customer) -> None:
        """Save changes to a customer's fields; its position in the list stays."""
        if self._file:
            values = customer.number, json.dumps(asdict(customer))
            self._file.execute("INSERT OR REPLACE INTO customers VALUES (?, ?)", values)

    def remove(self, customer: Customer) -> None:
        """Remove a customer."""
        if self._file:
            self._file.execute("DELETE FROM customers WHERE number = ?", (customer.number,))
        self._removed[customer.customer_id] = self._by_id.pop(customer.customer_id)
        rows = self._rows[customer.merchant]
        del rows[bisect_left(rows, customer.rank, key=_rank)]

    def find(self, merchant: str, customer_id: str) -> Customer | None:
        """The merchant's customer with this id; None if there is none, or if it belongs to another merchant."""
        customer = self._by_id.get(customer_id)
        return customer if customer and customer.merchant == merchant else None

    def find_removed(self, merchant: str, customer_id: str) -> Customer | None:
        """The merchant's removed customer with this id; a restart forgets them."""
        customer = self._removed.get(customer_id)
        return customer if customer and customer.merchant == merchant else None

    def with_email(self, merchant: str, email: str | None) -> Customer | None:
        """The merchant's oldest customer with this email."""
        rows = self._rows.get(merchant, []) if email else []
        return next((row for row in rows if row.fields.get("email") == email), None)

    def counts(self) -> dict[str, int]:
        """Merchant → number of customers."""
        return {merchant: len(rows) for merchant, rows in self._rows.items() if rows}

    def page(self, merchant: str, offset: int, size: int, shuffle: Random | None = None) -> list[Customer]:
        """Up to ``size`` customers after the first ``offset``, newest first.

        :param shuffle: puts the rows of each second into a random order, for this page only
        """
        rows = self._rows.get(merchant, [])
        low, high = max(0, len(rows) - offset - size), max(0, len(rows) - offset)
        if shuffle is None or low == high:
            return rows[low:high][::-1]
        # Whole seconds are shuffled before the page is cut out, so a row can move across a page boundary.
        first = bisect_left(rows, rows[low].created_at, key=_created)
        last = bisect_right(rows, rows[high - 1].created_at, key=_created)
        mixed: list[Customer] = []
        for _, second in groupby(reversed(rows[first:last]), key=_created):
            group = list(second)
            shuffle.shuffle(group)
            mixed += group
        return mixed[last - high : last - low]

    def clear(self) -> None:
        """Remove all customers."""
        if self._file:
            self._file.execute("DELETE FROM customers")
        self._by_id.clear()
        self._rows.clear()
        self._removed.clear()
        self._last_number = 0

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file:
            self._file.close()

    def _index(self, customer: Customer) -> None:
        self._by_id[customer.customer_id] = customer
        rows = self._rows.setdefault(customer.merchant, [])
        if not rows or rows[-1].rank < customer.rank:
            rows.append(customer)
        else:
            insort(rows, customer, key=_rank)


def _open(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # sqlite3 says what is wrong with the path
        make_private(path)
    # The server's thread and a test's thread both use the connection; the state's lock keeps them apart.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Commits survive a killed process, though not a crashed machine: they are not synced to the disk.
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; "
        "CREATE TABLE IF NOT EXISTS customers (number INTEGER PRIMARY KEY, customer TEXT NOT NULL)"
    )
    return connection
