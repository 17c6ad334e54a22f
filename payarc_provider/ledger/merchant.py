"""Access to PayArc, for the commands that need it."""

from __future__ import annotations

from typing import Any

from payarc_provider.api.fields import path_id
from payarc_provider.exceptions import PayarcNotFound
from payarc_provider.hooks.payarc import PayarcHook
from payarc_provider.sync.account import find_account
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.repair import LedgerUnchanged


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
