"""What the engine asks of the world. The real ones stand in ``threads``; a simulation brings its own."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from payarc_provider.api.client import CustomerPage
from payarc_provider.sync.ledger import Known, Recorded, Resolution, Row
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.states import Created, Status


class Clock(Protocol):
    """A clock that runs on while the process or the machine is suspended, in seconds."""

    def now(self) -> float:
        """Seconds since any fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Feed(Protocol):
    """The input, batch by batch."""

    total: int | None

    async def next_batch(self) -> list[Record] | None:
        """The next records, or None at the end."""


class LedgerPort(Protocol):
    """The ledger as one attempt sees it; each method may raise LedgerUnavailable and may then be repeated."""

    async def known(self, keys: Collection[str]) -> dict[str, Known]:
        """See Ledger.known."""

    async def rows(self, keys: Collection[str]) -> dict[str, Row]:
        """See Ledger.rows."""

    async def claim(
        self, records: Sequence[Record], references: Mapping[str, str | None], sent_after: datetime.datetime
    ) -> dict[str, Row]:
        """See Ledger.claim."""

    async def record(self, answers: Sequence[Resolution]) -> Recorded:
        """See Ledger.record."""

    async def renew(self) -> set[str]:
        """See Ledger.renew."""

    async def release(self, unsent: Collection[str]) -> None:
        """See Ledger.release."""

    async def give_up(self, keys: Collection[str]) -> None:
        """See Ledger.give_up."""

    async def take_over(self) -> dict[str, Row]:
        """See Ledger.take_over."""

    async def waiting(self) -> tuple[int, float | None]:
        """See Ledger.waiting."""

    async def record_absence(self, keys: Collection[str]) -> set[str]:
        """See Ledger.record_absence."""

    async def ids_with_rows(self, customer_ids: Collection[str]) -> set[str]:
        """See Ledger.ids_with_rows."""

    async def references_with_rows(self, references: Collection[str]) -> set[str]:
        """See Ledger.references_with_rows."""

    async def open_without_reference(self) -> bool:
        """See Ledger.open_without_reference."""

    async def made(self) -> int:
        """See Ledger.made."""

    async def alters_values(self, noticed: bool) -> bool:
        """Whether PayArc is known to alter values; ``noticed`` makes it known."""


class PayarcPort(Protocol):
    """PayArc's customers; every method raises the errors of ``payarc_provider.exceptions``."""

    async def ping(self) -> float | None:
        """One cheap authenticated call; PayArc's time (Unix seconds) if it told it."""

    async def create(self, fields: Mapping[str, str], idempotency_key: str, guard: Callable[[], None]) -> Created:
        """One POST; ``guard`` is called directly before the request goes out, and may raise LeaseTooShort."""

    async def list_page(self, page: int) -> CustomerPage:
        """One page of 100 customers, newest first, from 1."""

    async def acquire(self, reading: bool, ready: int = 1) -> float:
        """Seconds until the rate limit lets the next request go; 0: a slot is taken for it.

        :param ready: how many requests could go now
        """

    def release(self, reading: bool) -> None:
        """Return a slot that was not used."""


class Sink(Protocol):
    """Where results go, in any order."""

    def accepted(self, record: Record, customer_id: str, status: Status, *, changed: bool) -> None:
        """The record has a customer."""

    def refused(self, record: Record, errors: Errors, *, new: bool) -> None:
        """The record is refused; ``new`` tells whether an earlier run had reported the same."""

    def would_create(self, record: Record) -> None:
        """In a dry run: the record would be sent."""
