"""What a reading of PayArc's list proves, and what it does not."""

from __future__ import annotations

import asyncio

import pytest

from payarc_provider.api.client import CustomerPage
from payarc_provider.exceptions import PayarcRunStopped
from payarc_provider.sync.listing import read_completely

NOW = 1_700_000_000
CUSTOMERS = [{"customer_id": f"c{place}", "created_at": NOW - 60 - place} for place in range(150)]


class Seen:
    """Keeps every id it is shown."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def add(self, customer):
        self.ids.add(customer["customer_id"])


def page_of(number: int, *, shown: bool = True) -> CustomerPage:
    customers = CUSTOMERS[100 * (number - 1) : 100 * number] if shown else []
    return CustomerPage(customers, number, len(CUSTOMERS), 2, NOW)


async def no_wait(_: float) -> None:
    return None


def test_a_page_that_is_empty_before_the_lists_end_proves_nothing():
    asked: list[int] = []

    async def read_page(number: int) -> CustomerPage:
        asked.append(number)
        return page_of(number, shown=asked.count(2) != 1 or number != 2)

    window = asyncio.run(read_completely(read_page, 0.0, Seen, no_wait))
    assert asked == [1, 2, 1, 2]
    assert len(window.ids) == 150


def test_a_list_that_never_shows_all_that_it_says_it_has_ends_the_run():
    async def read_page(number: int) -> CustomerPage:
        return page_of(number, shown=number != 2)

    with pytest.raises(PayarcRunStopped):
        asyncio.run(read_completely(read_page, 0.0, Seen, no_wait))
