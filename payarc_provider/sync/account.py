"""The account under which the ledger keeps a merchant's rows.

The ledger remembers which environment, account and token user belong together. If a connection does not match any of
them, a run tries to read a customer of each known merchant with the connection's token. If that proves nothing, the run
stops, because treating a known merchant as a new one would create every customer twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcConfigError, PayarcNotFound
from payarc_provider.sync.ledger import Ledger, check_account

_PREFIX = "account:"


def find_account(
    ledger: Ledger, identity: Identity, read_customer: Callable[[str], object], *, remember: bool = True
) -> str:
    """The account under which the ledger keeps, or will keep, this merchant's rows.

    :param read_customer: reads one customer by id; raises PayarcNotFound if the token has no access to it
    :param remember: whether to store the result in the ledger; False for a dry run
    :raises PayarcConfigError: if it is unclear whether the ledger knows this merchant
    """
    known = {
        Identity(*json.loads(name.removeprefix(_PREFIX))): account for name, account in ledger.facts(_PREFIX).items()
    }
    account = known.get(identity) or _prove_account(ledger, identity, known, read_customer)
    return ledger.remember(fact_name(identity), account) if remember else account


def new_account(identity: Identity) -> str:
    """The account of an identity that is new to the ledger.

    :raises PayarcConfigError: if it is too long
    """
    return check_account(f"{identity.environment}/{identity.account or identity.user}")


def fact_name(identity: Identity) -> str:
    """The name of the fact by which the ledger remembers the account of an identity."""
    return _PREFIX + json.dumps([identity.environment, identity.account, identity.user], ensure_ascii=False)


def _prove_account(
    ledger: Ledger, identity: Identity, known: dict[Identity, str], read_customer: Callable[[str], object]
) -> str:
    for account in dict.fromkeys(known.values()):
        same_environment = [
            other
            for other, known_account in known.items()
            if known_account == account and other.environment == identity.environment
        ]
        related = any(
            other.user == identity.user or (other.account and other.account == identity.account)
            for other in same_environment
        )
        customer_ids = ledger.known_ids(account)
        if _can_read_any(customer_ids, read_customer):
            return account
        if customer_ids:
            if related:
                raise PayarcConfigError(
                    f"the connection's token has no access to the customers that the ledger has for {account}: use "
                    "that merchant's token, or, for another merchant, set another account in the connection's extra"
                )
        elif not ledger.has_rows(account):  # a run has stored the account and claimed nothing
            if related:
                return account
        elif related or (identity.account is None and same_environment):
            raise PayarcConfigError(
                f"cannot tell whether the token belongs to {account}, for which the ledger has no customer yet: finish "
                "that run with its own token, or set account in the extra of each merchant's connection"
            )
    return new_account(identity)


def _can_read_any(customer_ids: list[str], read_customer: Callable[[str], object]) -> bool:
    for customer_id in customer_ids:
        try:
            read_customer(customer_id)
        except PayarcNotFound:
            continue
        return True
    return False
