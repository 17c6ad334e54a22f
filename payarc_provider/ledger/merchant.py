"""Access to PayArc, for the commands that need it."""

from __future__ import annotations

import sys
import time
from typing import Any

from payarc_provider.api.client import CustomerPage
from payarc_provider.api.fields import path_id
from payarc_provider.exceptions import PayarcNotFound
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.sync.account import find_account
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.repair import LedgerUnchanged

_REPORT_EVERY = 10.0  # seconds


class Merchant:
    """One merchant at PayArc, reached through an Airflow connection.

    :param conn_id: a connection of type ``payarc``
    """

    def __init__(self, conn_id: str) -> None:
        hook = PayarcHook(conn_id)
        self.conn_id = conn_id
        self.client = hook.get_client()
        self.limiter = self.client.limiter
        self.identity = hook.identity

    def close(self) -> None:
        """Close the HTTP connections."""
        self.client.close()

    def account(self, ledger: Ledger) -> str:
        """The account of this merchant's rows in the ledger."""
        return find_account(ledger, self.identity, self.client.get_customer, remember=False)

    def check_account(self, ledger: Ledger, account: str) -> None:
        """Check that these are this merchant's rows.

        :raises LedgerUnchanged: they are not
        """
        if (own := self.account(ledger)) != account:
            raise LedgerUnchanged(f"the connection {self.conn_id} belongs to the account {own}, not {account}")

    def customer(self, customer_id: str) -> dict[str, Any]:
        """The customer with this id.

        :raises LedgerUnchanged: when PayArc has none
        """
        try:
            return self.client.get_customer(customer_id)
        except PayarcNotFound:
            raise LedgerUnchanged(
                f"PayArc has no customer {path_id(customer_id)} for the connection {self.conn_id}: nothing was changed"
            ) from None


class ListProgress:
    """Prints to stderr which page was read, because the rate limit can make reading the list take hours."""

    def __init__(self) -> None:
        self._reported_at = time.monotonic()

    def report(self, page: CustomerPage) -> None:
        """Report this page, unless another was reported within the last 10 seconds."""
        if time.monotonic() - self._reported_at >= _REPORT_EVERY:
            self._reported_at = time.monotonic()
            pages = f" of {page.total_pages}" if page.total_pages is not None else ""
            print(f"PayArc's list: page {page.page}{pages}", file=sys.stderr, flush=True)
