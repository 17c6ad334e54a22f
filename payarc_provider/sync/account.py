"""Whose rows: the scope of a merchant in the ledger.

The ledger remembers which base URL, account and token user belong together. Where they no longer agree, a run proves
that the token still sees the same merchant by reading one customer the ledger knows, or stops: a merchant taken for a
new one would get every customer twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from payarc_provider.exceptions import PayarcConfigError, PayarcNotFound
from payarc_provider.sync.ledger import Ledger, check_account

_PREFIX = "account:"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a connection and its token say of the merchant.

    :param place: the environment, or another host's name
    :param account: the connection's ``account``, if it has one
    :param user: the token's ``sub``, or a hash of a token that says nothing
    """

    place: str
    account: str | None
    user: str

    @property
    def name(self) -> str:
        """The fact under which the ledger keeps it."""
        return _PREFIX + json.dumps([self.place, self.account, self.user], ensure_ascii=False)

    @property
    def own_scope(self) -> str:
        """The scope it has if it is new to the ledger."""
        return check_account(f"{self.place}/{self.account or self.user}")


def token_user(sub: str | None, token: str) -> str:
    """The token's user; of a token that names none, a hash, so that another token is noticed."""
    return sub or "token-" + hashlib.sha256(token.encode()).hexdigest()[:16]


def find_scope(ledger: Ledger, me: Identity, read_customer: Callable[[str], object], *, remember: bool = True) -> str:
    """The account under which this merchant's rows stand.

    :param read_customer: reads one customer by id, raises PayarcNotFound where the token sees none
    :param remember: False for a dry run
    :raises PayarcConfigError: when it cannot be told whether this is a merchant that the ledger knows; says what to set
    """
    known = {Identity(*json.loads(name.removeprefix(_PREFIX))): scope for name, scope in ledger.facts(_PREFIX).items()}
    scope = known.get(me) or _prove(ledger, me, known, read_customer)
    return ledger.remember(me.name, scope) if remember else scope


def _prove(ledger: Ledger, me: Identity, known: dict[Identity, str], read_customer: Callable[[str], object]) -> str:
    for scope in dict.fromkeys(known.values()):
        theirs = [identity for identity, its_scope in known.items() if its_scope == scope]
        claims_same = any(
            one.place == me.place and (one.user == me.user or (one.account and one.account == me.account))
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
        if claims_same or (not ids and me.account is None and any(one.place == me.place for one in theirs)):
            raise PayarcConfigError(
                f"it cannot be told whether the connection's token belongs to {scope}, for which the ledger has "
                "no customer to compare: "
                "finish that run with its own token first, or set a different account in the extra of each "
                "merchant's connection"
            )
    return me.own_scope


def _sees_one(customer_ids: list[str], read_customer: Callable[[str], object]) -> bool:
    for customer_id in customer_ids:
        try:
            read_customer(customer_id)
        except PayarcNotFound:
            continue
        return True
    return False
