"""What a ledger keeps of keys that were forgotten on purpose: two kinds of facts, and no key.

``forgotten:<account>:<customer id>`` bars the customer that a removed row had. It still bears the key's reference and
may equal a record in every field, so a row that is made for the key again, or any other, must never take it for its
own.

``first_attempt`` is the attempt that new rows count from: above every attempt of a removed row, so that no
``Idempotency-Key`` comes a second time, which PayArc might answer with the forgotten customer.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection

from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.engine import Connection

from payarc_provider.sync.ledger.database import among

FIRST_ATTEMPT = "first_attempt"


def _prefix(account: str) -> str:
    return f"forgotten:{account}:"  # a customer's id follows, which has no colon


def count_forgotten(connection: Connection, facts: Table, account: str) -> int:
    """How many customers of the account are barred."""
    prefix = _prefix(account)
    barred = select(func.count()).select_from(facts).where(func.substr(facts.c.name, 1, len(prefix)) == prefix)
    return int(connection.execute(barred).scalar_one())


def forgotten_ids(connection: Connection, facts: Table, account: str, customer_ids: Collection[str]) -> set[str]:
    """Which of these customers were a row's whose key was forgotten. At most some hundreds are asked for at once."""
    names = {_prefix(account) + customer_id: customer_id for customer_id in customer_ids}
    if not names:
        return set()
    found = connection.execute(select(facts.c.name).where(among(connection, facts.c.name, sorted(names))))
    return {names[row[0]] for row in found}


def bar(connection: Connection, facts: Table, account: str, customer_id: str, now: datetime.datetime) -> None:
    """Let no row have this customer again."""
    if not forgotten_ids(connection, facts, account, [customer_id]):
        name = _prefix(account) + customer_id
        connection.execute(insert(facts).values(name=name, value=now.isoformat(timespec="seconds")))


def first_attempt(connection: Connection, facts: Table) -> int:
    """The attempt that new rows count from."""
    value = connection.execute(select(facts.c.value).where(facts.c.name == FIRST_ATTEMPT)).scalar_one_or_none()
    return int(value or 1)


def count_from(connection: Connection, facts: Table, attempt: int) -> int:
    """Let new rows count from this attempt at least, and return where they do; the fact must be there already."""
    at = facts.c.name == FIRST_ATTEMPT
    value = connection.execute(select(facts.c.value).where(at).with_for_update()).scalar_one()
    if int(value) >= attempt:
        return int(value)
    connection.execute(update(facts).where(at).values(value=str(attempt)))
    return attempt
