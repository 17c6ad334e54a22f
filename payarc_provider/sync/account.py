"""Whose rows: the scope of a merchant in the ledger.

The ledger remembers which base URL, account and token user belong together. Where they no longer agree, a run proves
that the token still sees the same merchant by reading one customer the ledger knows, or stops: a merchant taken for a
new one would get every customer twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcConfigError, PayarcNotFound
from payarc_provider.sync.ledger import Ledger, check_account

_PREFIX = "account:"


def fact_name(me: Identity) -> str:
    """The name of the ledger's fact that holds this identity's scope."""
    return _PREFIX + json.dumps([me.environment, me.account, me.user], ensure_ascii=False)


def new_scope(me: Identity) -> str:
    """The scope of an identity that is new to the ledger.

    :raises PayarcConfigError: it is too long
    """
    return check_account(f"{me.environment}/{me.account or me.user}")


def find_scope(ledger: Ledger, me: Identity, read_customer: Callable[[str], object], *, remember: bool = True) -> str:
    """The account under which this merchant's rows stand.

    :param read_customer: reads one customer by id, raises PayarcNotFound where the token sees none
    :param remember: False for a dry run
    :raises PayarcConfigError: when it cannot be told whether this is a merchant that the ledger knows; says what to set
    """
    known = {Identity(*json.loads(name.removeprefix(_PREFIX))): scope for name, scope in ledger.facts(_PREFIX).items()}
    scope = known.get(me) or _prove(ledger, me, known, read_customer)
    return ledger.remember(fact_name(me), scope) if remember else scope


def _prove(ledger: Ledger, me: Identity, known: dict[Identity, str], read_customer: Callable[[str], object]) -> str:
    for scope in dict.fromkeys(known.values()):
        theirs = [identity for identity, its_scope in known.items() if its_scope == scope]
        claims_same = any(
            one.environment == me.environment and (one.user == me.user or (one.account and one.account == me.account))
            for one in theirs
        )
        ids = ledger.known_ids(scope)
        if _sees_one(ids, read_customer):
            return scope
        if claims_same and ids:
            raise PayarcConfigError(
                f"the connection's token does not see the customers that the ledger has for {scope}, but its "
                "account or user is the same: "
                "use that merchant's token, or set another account in the connection's extra if this is another "
                "merchant"
            )
        if not ids and not ledger.has_rows(scope):
            if claims_same:
                return scope
            continue  # a run that never claimed anything
        if claims_same or (not ids and me.account is None and any(one.environment == me.environment for one in theirs)):
            raise PayarcConfigError(
                f"it cannot be told whether the connection's token belongs to {scope}, for which the ledger has "
                "no customer to compare: "
                "finish that run with its own token first, or set a different account in the extra of each "
                "merchant's connection"
            )
    return new_scope(me)


def _sees_one(customer_ids: list[str], read_customer: Callable[[str], object]) -> bool:
    for customer_id in customer_ids:
        try:
            read_customer(customer_id)
        except PayarcNotFound:
            continue
        return True
    return False
