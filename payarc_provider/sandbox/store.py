"""The store: every customer in memory, in the order in which PayArc lists them, and in a file if wanted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from random import Random

from payarc_provider.sandbox.customer import Customer
from payarc_provider.sandbox.file import StateFile

_created = attrgetter("created_at")
_rank = attrgetter("rank")


class Store:
    """Customers by merchant and id. What a method changed is durable when it returns, if there is a file.

    :param path: the SQLite file to read at the start and to keep; None for memory only
    """

    def __init__(self, path: Path | None = None) -> None:
        self._by_id: dict[str, Customer] = {}
        self._rows: dict[str, list[Customer]] = {}
        self._file = StateFile(path) if path else None
        for customer in self._file.customers() if self._file else ():
            self._index(customer)
        self._last_number = max((customer.number for customer in self._by_id.values()), default=0)

    def __iter__(self) -> Iterator[Customer]:
        return iter(sorted(self._by_id.values(), key=attrgetter("number")))

    def __contains__(self, customer_id: str) -> bool:
        return customer_id in self._by_id

    def next_number(self) -> int:
        """The number for the next customer; it is given once."""
        self._last_number += 1
        return self._last_number

    def add(self, customer: Customer) -> None:
        """Keep a new customer, at its place in the list."""
        if self._file:
            self._file.save(customer)
        self._index(customer)

    def save(self, customer: Customer) -> None:
        """Keep what has changed in a customer's fields; its place in the list stays."""
        if self._file:
            self._file.save(customer)

    def remove(self, customer: Customer) -> None:
        """Forget a customer."""
        if self._file:
            self._file.delete(customer)
        del self._by_id[customer.customer_id]
        rows = self._rows[customer.merchant]
        del rows[bisect_left(rows, customer.rank, key=_rank)]

    def find(self, merchant: str, customer_id: str) -> Customer | None:
        """The merchant's customer of this id; None for one of another merchant too."""
        customer = self._by_id.get(customer_id)
        return customer if customer and customer.merchant == merchant else None

    def counts(self) -> dict[str, int]:
        """Merchant → number of customers."""
        return {merchant: len(rows) for merchant, rows in self._rows.items() if rows}

    def page(self, merchant: str, offset: int, size: int, shuffle: Random | None = None) -> list[Customer]:
        """Newest first, ``size`` of them after the first ``offset``.

        :param shuffle: draws another order for the rows of each second, for this page alone
        """
        rows = self._rows.get(merchant, [])
        low, high = max(0, len(rows) - offset - size), max(0, len(rows) - offset)
        if shuffle is None or low == high:
            return rows[low:high][::-1]
        # Whole seconds are shuffled, and the page is cut out afterwards: so a row can wander over a page's edge.
        first = bisect_left(rows, rows[low].created_at, key=_created)
        last = bisect_right(rows, rows[high - 1].created_at, key=_created)
        mixed: list[Customer] = []
        for _, second in groupby(reversed(rows[first:last]), key=_created):
            group = list(second)
            shuffle.shuffle(group)
            mixed += group
        return mixed[last - high : last - low]

    def clear(self) -> None:
        """Forget everything."""
        if self._file:
            self._file.clear()
        self._by_id.clear()
        self._rows.clear()
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
