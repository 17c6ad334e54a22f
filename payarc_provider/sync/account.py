"""The account under which the ledger keeps a merchant's rows.

The ledger remembers which environment, account and token user belong together. If a connection does not match any of
them, a run tries to read a customer of each merchant known in this environment with the connection's token. If that
proves nothing about a merchant that it may be, the run stops, because treating a known merchant as a new one would
create every customer twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

from payarc_provider.api.fields import read_customer_id
from payarc_provider.api.token import Identity
from payarc_provider.exceptions import PayarcConfigError, PayarcNotFound
from payarc_provider.sync.ledger import Ledger, check_account

_PREFIX = "account:"

log = logging.getLogger(__name__)


def find_account(
    ledger: Ledger, identity: Identity, read_customer: Callable[[str], Mapping[str, object]], *, remember: bool = True
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
    ledger: Ledger, identity: Identity, known: dict[Identity, str], read_customer: Callable[[str], Mapping[str, object]]
) -> str:
    same_environment = {other: account for other, account in known.items() if other.environment == identity.environment}
    for account in dict.fromkeys(same_environment.values()):
        others = [other for other, known_account in same_environment.items() if known_account == account]
        is_related = any(
            other.user == identity.user or (other.account and other.account == identity.account) for other in others
        )
        customer_ids = ledger.known_ids(account)
        if _can_read_any(customer_ids, read_customer, account):
            _check_names(identity, {other.account for other in others if other.account}, account)
            return account
        if customer_ids:
            if is_related:
                raise PayarcConfigError(
                    f"the connection's token has no access to the customers that the ledger has for {account}: use "
                    "that merchant's token, or, for another merchant, set another account in the connection's extra"
                )
        elif not ledger.has_rows(account):  # a run has stored the account and claimed nothing
            if is_related and not _is_renamed(identity, others):
                return account
        elif is_related or identity.account is None:
            raise PayarcConfigError(
                f"cannot tell whether the token belongs to {account}, for which the ledger has no customer yet: finish "
                "that run with its own token, or set account in the extra of each merchant's connection"
            )
    return new_account(identity)


def _is_renamed(identity: Identity, others: list[Identity]) -> bool:
    """Whether the connection names another account than all of these."""
    names = {other.account for other in others if other.account}
    return bool(identity.account and names and identity.account not in names)


def _check_names(identity: Identity, names: set[str], account: str) -> None:
    """Check that the connection does not name another merchant than the one that its token belongs to.

    :raises PayarcConfigError: it does
    """
    if identity.account and names and identity.account not in names:
        known = " or ".join(f'"{name}"' for name in sorted(names))
        raise PayarcConfigError(
            f'connection extra "account": the token belongs to the merchant that the ledger knows as {account}. If the '
            f"connection is for that merchant, set account to {known}; if not, set the token of its own merchant"
        )


def _can_read_any(customer_ids: list[str], read_customer: Callable[[str], Mapping[str, object]], account: str) -> bool:
    """Whether the token has access to one of these customers. Any other response than the customer proves nothing."""
    for customer_id in customer_ids:
        try:
            customer = read_customer(customer_id)
        except PayarcNotFound:
            continue
        if read_customer_id(customer) == customer_id:
            log.info("The token has access to customer %s, so the ledger's rows of %s are used", customer_id, account)
            return True
    return False
