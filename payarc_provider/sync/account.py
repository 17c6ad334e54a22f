"""The account under which the ledger keeps a merchant's rows.

The ledger remembers which environment, account and token user belong together. If a connection does not match any of
them, a run reads a customer of each known merchant to find out whether the token sees it. If that proves nothing, the
run stops, because a known merchant that is taken for a new one would get every customer twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcConfigError, PayarcNotFound
from payarc_provider.sync.ledger import Ledger, check_account

_PREFIX = "account:"


def find_account(ledger: Ledger, me: Identity, read_customer: Callable[[str], object], *, remember: bool = True) -> str:
    """The account under which this merchant's rows are, or will be.

    :param read_customer: reads one customer by id; raises PayarcNotFound if the token does not see it
    :param remember: whether to store in the ledger what was found; False for a dry run
    :raises PayarcConfigError: if it is unclear whether the ledger knows this merchant
    """
    known = {
        Identity(*json.loads(name.removeprefix(_PREFIX))): account for name, account in ledger.facts(_PREFIX).items()
    }
    account = known.get(me) or _prove_account(ledger, me, known, read_customer)
    return ledger.remember(fact_name(me), account) if remember else account


def new_account(me: Identity) -> str:
    """The account of an identity that is new to the ledger.

    :raises PayarcConfigError: if it is too long
    """
    return check_account(f"{me.environment}/{me.account or me.user}")


def fact_name(me: Identity) -> str:
    """The name of the fact by which the ledger remembers the account of an identity."""
    return _PREFIX + json.dumps([me.environment, me.account, me.user], ensure_ascii=False)


def _prove_account(
    ledger: Ledger, me: Identity, known: dict[Identity, str], read_customer: Callable[[str], object]
) -> str:
    for account in dict.fromkeys(known.values()):
        same_environment = [
            one for one, its_account in known.items() if its_account == account and one.environment == me.environment
        ]
        related = any(one.user == me.user or (one.account and one.account == me.account) for one in same_environment)
        customer_ids = ledger.known_ids(account)
        if _sees_one(customer_ids, read_customer):
            return account
        if customer_ids:
            if related:
                raise PayarcConfigError(
                    f"the connection's token does not see the customers that the ledger has for {account}: use that "
                    "merchant's token, or, for another merchant, set another account in the connection's extra"
                )
        elif not ledger.has_rows(account):  # a run remembered it and claimed nothing
            if related:
                return account
        elif related or (me.account is None and same_environment):
            raise PayarcConfigError(
                f"cannot tell whether the token belongs to {account}, for which the ledger has no customer yet: finish "
                "that run with its own token, or set account in the extra of each merchant's connection"
            )
    return new_account(me)


def _sees_one(customer_ids: list[str], read_customer: Callable[[str], object]) -> bool:
    for customer_id in customer_ids:
        try:
            read_customer(customer_id)
        except PayarcNotFound:
            continue
        return True
    return False
