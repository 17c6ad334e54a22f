"""The order of a composite key's columns, kept in the ledger: in another order, each record has another key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.keys import check_key
from payarc_provider.sync.ledger import Ledger


def check_key_order(ledger: Ledger, account: str, key: str | Sequence[str], *, remember: bool = True) -> None:
    """Check that the account's ledger does not have keys of the same columns in another order.

    Each set of column names has an order of its own, so sources with different columns may share a ledger. Names are
    compared without their case, which some databases ignore.

    :param remember: whether to store the order of columns that the ledger does not know; False for a dry run
    :raises PayarcConfigError: if the order has changed
    """
    columns = check_key(key)
    if len(columns) == 1:
        return
    names = _comparable(columns)
    fact = f"key_order:{account}:{_digest(sorted(names))}"
    known = ledger.remember(fact, json.dumps(names)) if remember else ledger.fact(fact)
    order = names if known is None else json.loads(known)
    if names != order:
        right = json.dumps([columns[names.index(name)] for name in order], ensure_ascii=False)
        raise PayarcConfigError(
            f"key: the ledger has keys of these columns in another order, so every record would get a second customer. "
            f"Use the ledger's order: key={right}"
        )


def _comparable(columns: Sequence[str]) -> list[str]:
    folded = [column.casefold() for column in columns]
    return folded if len(set(folded)) == len(folded) else list(columns)


def _digest(names: list[str]) -> str:
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()
