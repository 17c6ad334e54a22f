"""What each template is filled with, read from a ledger that is open."""

from __future__ import annotations

import datetime
import shlex
from typing import Any

from payarc_provider.api.fields import FIELDS
from payarc_provider.plugins.chart import chart
from payarc_provider.plugins.ledgers import LedgerNotShown
from payarc_provider.plugins.place import unseal
from payarc_provider.sync.keys import looks_like_email
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.browse import AccountRows, RunCounts
from payarc_provider.sync.ledger.overview import Overview

View = dict[str, Any]
PAGE = 50
LATEST_RUNS = 20
FIRST_REJECTED = 10
_WHOLE = "This is about the record as a whole, or about something that is no field of PayArc's."


def ledger(found: Ledger) -> View:
    """The accounts with their counts."""
    now, accounts = Overview(found).counts()
    return {"now": now, "accounts": accounts}


def account(found: Ledger, account: str, _place: str | None) -> View:
    """The counts, the latest runs and their chart, and the first refused records."""
    now, (counts, *_) = Overview(found, account).counts()
    if not sum(counts.states.values()) and account not in Overview(found).accounts():
        raise LedgerNotShown("This ledger has no such account.", 404)
    rows = AccountRows(found, account)
    runs = rows.runs(LATEST_RUNS + 1)
    return {
        "now": now,
        "counts": counts,
        "runs": runs[:LATEST_RUNS],
        "more_runs": len(runs) > LATEST_RUNS,
        "chart": chart(runs[:LATEST_RUNS], LATEST_RUNS),
        "rows": rows.rejected(FIRST_REJECTED),
    }


def rejected(found: Ledger, account: str, place: str | None) -> View:
    """A page of refused records."""
    return _page(AccountRows(found, account).rejected(PAGE + 1, _key(found, place)), place)


def pending(found: Ledger, account: str, place: str | None) -> View:
    """A page of pending records."""
    return _page(AccountRows(found, account).pending(PAGE + 1, _key(found, place)), place)


def runs(found: Ledger, account: str, place: str | None) -> View:
    """A page of DAG runs."""
    after = None
    if place is not None:
        last, dag_id, run_id = _unsealed(found, place, list)
        after = RunCounts(dag_id, run_id, datetime.datetime.fromisoformat(last), 0, 0, 0)
    return _page(AccountRows(found, account).runs(PAGE + 1, after), place)


def record(found: Ledger, account: str, place: str | None) -> View:
    """A refused record: PayArc's words and its documented rule, field by field."""
    row = AccountRows(found, account).rejected_record(_unsealed(found, place, str))
    if row is None:
        raise LedgerNotShown("This record is no longer rejected: it has been tried again since.", 404)
    faults = [(field, texts, FIELDS[field].text if field in FIELDS else None) for field, texts in row.errors.items()]
    return {"row": row, "faults": faults, "whole": _WHOLE, "retry": _retry(account, row.key)}


def _retry(account: str, key: str) -> str:
    return f"--account {shlex.quote(account)} retry {'KEY' if looks_like_email(key) else shlex.quote(key)}"


def _page(rows: list[Any], place: str | None) -> View:
    last = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1] if isinstance(rows[PAGE - 1], RunCounts) else rows[PAGE - 1].key
    return {"rows": rows[:PAGE], "next": last, "first": place is None}


def _key(found: Ledger, place: str | None) -> str | None:
    return None if place is None else _unsealed(found, place, str)


def _unsealed(found: Ledger, place: str | None, kind: type) -> Any:
    try:
        value = unseal(found.ledger_id, place or "")
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise LedgerNotShown("This address does not lead into this ledger.", 404)
    return value
