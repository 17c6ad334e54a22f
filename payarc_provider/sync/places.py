"""Where workers that share a token and a ledger keep the account of a window: one of the ledger's facts.

``rate_limit:<account>:<endpoint>`` holds numbers, times and the workers' random ids; no token. What is in it, and what
becomes of it, says `payarc_provider.api.shared_window`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import select, update

from payarc_provider.api.shared_window import Asking, Granted, take
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.database import database_now


def take_places(ledger: Ledger, account: str, endpoint: str, asking: Asking, clock: Callable[[], float]) -> Granted:
    """Ask the account, and tell it, in one short transaction.

    :param clock: the one by which ``asking`` tells the time
    :raises PayarcLedgerError: the ledger's database cannot be used
    """
    facts, name = ledger.schema.facts, f"rate_limit:{account}:{endpoint}"
    this = facts.c.name == name
    query = select(facts.c.value).where(this).with_for_update()
    with ledger.database.write() as connection:
        value = connection.execute(query).scalar_one_or_none()
        window = json.loads(value or "{}")
        # Each end of a window comes out a moment too late, rather than too early, for the time that the clock takes.
        asked_for = clock() - asking.at
        now = database_now(connection).timestamp()
        granted = take(window, asking, now, asked_for=asked_for, at=clock())
        if value is not None:
            connection.execute(update(facts).where(this).values(value=json.dumps(window)))
    if value is None:  # the first worker of all; what it told is lost to a second one, which finds out by itself
        ledger.remember(name, json.dumps(window))
    return granted
