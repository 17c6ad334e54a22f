"""Runs the commands, except ``rebuild`` and ``erase``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable

from payarc_provider.api.fields import path_id
from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.hooks.sql import sql_engine
from payarc_provider.ledger import output
from payarc_provider.ledger.erase import erase
from payarc_provider.ledger.merchant import Merchant
from payarc_provider.ledger.rebuild import rebuild
from payarc_provider.ledger.rejected_csv import as_csv
from payarc_provider.sync.keys import display_key, natural_order
from payarc_provider.sync.ledger import Ledger
from payarc_provider.sync.ledger.overview import Overview
from payarc_provider.sync.ledger.repair import LedgerUnchanged, Renamed, Repair, rename_source
from payarc_provider.sync.reference import find_reference
from payarc_provider.sync.sources import check_source


def run(given: argparse.Namespace) -> str:
    """Run a command and return the text to print.

    :raises PayarcError: when it cannot be done, or there is nothing to do
    :raises AirflowException: when a connection does not exist
    """
    with contextlib.ExitStack() as stack:
        engine = sql_engine(given.ledger_conn_id, "--ledger-conn-id", ledger=True)
        stack.callback(engine.dispose)
        return _COMMANDS[given.command](Ledger(engine, given.ledger_table), given)


# ---- commands that read ---------------------------------------------------------------------------------------------


def _status(ledger: Ledger, given: argparse.Namespace) -> str:
    _open(ledger, given)
    now, counts = Overview(ledger, given.account).counts()
    tables = [ledger.schema.rows.fullname, ledger.schema.facts.fullname]
    database = ledger.database.engine.dialect.name
    if not given.json:
        return output.status(ledger.ledger_id, tables, database, now, counts)
    facts = {"ledger_id": ledger.ledger_id, "tables": tables, "database": database, "now": now, "accounts": counts}
    return output.as_json(facts)


def _pending(ledger: Ledger, given: argparse.Namespace) -> str:
    _open(ledger, given)
    overview = Overview(ledger, given.account)
    total, rows = overview.count_pending(), overview.pending(given.limit, offset=given.offset)
    if given.json:
        return output.as_json({"total": total, "pending": rows})
    return output.page(output.pending(rows), total, given.limit, given.offset) if total else "nothing is pending"


def _rejected(ledger: Ledger, given: argparse.Namespace) -> str:
    _open(ledger, given)
    rows = sorted(Overview(ledger, given.account).rejected(), key=lambda row: (row.account, natural_order(row.key)))
    if given.csv:
        return "".join(as_csv(rows)).rstrip("\n")
    if given.json:
        return output.as_json({"total": len(rows), "rejected": rows})
    return output.rejected(rows) if rows else "nothing is rejected"


def _show(ledger: Ledger, given: argparse.Namespace) -> str:
    return output.row(Repair(ledger, _open(ledger, given)).row(given.key))


def _ddl(ledger: Ledger, given: argparse.Namespace) -> str:
    with contextlib.suppress(PayarcConfigError):  # another table may have the name already
        ledger.open(create=False)
    return output.statements(ledger.schema.ddl(ledger.database.engine.dialect))


# ---- commands that write --------------------------------------------------------------------------------------------


def _resolve(ledger: Ledger, given: argparse.Namespace) -> str:
    account = _open(ledger, given)
    if given.absent:
        _confirm(given.yes, _absence_question(ledger, account, given.key))
        Repair(ledger, account).resolve_absent(given.key)
        return f"{display_key(given.key)}: no customer at PayArc; the next run that reads its record sends it"
    customer_id = path_id(given.customer_id)
    with contextlib.closing(Merchant(given.payarc_conn_id)) as merchant:
        merchant.check_account(ledger, account)
        carried = find_reference(merchant.customer(customer_id).get("description"))
    Repair(ledger, account).resolve(given.key, customer_id, carried)
    return f"{display_key(given.key)}: created, customer {customer_id}"


def _absence_question(ledger: Ledger, account: str, key: str) -> str:
    code = Repair(ledger, account).row(key).reference
    recognized_by = f"its description would end with #{code}" if code else "it has no reference, but the record's data"
    return (
        f"If PayArc does have a customer for {display_key(key)} ({recognized_by}), the next run creates a second one. "
        "Have you checked in PayArc's dashboard that there is none?"
    )


def _retry(ledger: Ledger, given: argparse.Namespace) -> str:
    count = Repair(ledger, _open(ledger, given)).retry(None if given.all else given.keys)
    if count == 0:
        raise LedgerUnchanged("nothing is rejected")
    return f"the next run tries {count} rejected record{'' if count == 1 else 's'} again"


def _release(ledger: Ledger, given: argparse.Namespace) -> str:
    repair = Repair(ledger, _open(ledger, given))
    _confirm(
        given.yes,
        "If the runs that own these rows still work, they lose them and send nothing more for them. "
        "Was the clock of the ledger's database set back, and have those runs ended?",
    )
    count = repair.release(None if given.all else given.keys)
    if count == 0:
        raise LedgerUnchanged("no lease lies too far in the future")
    rows = "1 row is" if count == 1 else f"{count} rows are"
    return f"{rows} released: the next run looks them up when a lease taken now and `settle` would have passed"


def _forget(ledger: Ledger, given: argparse.Namespace) -> str:
    customer_id = Repair(ledger, _open(ledger, given)).forget(given.key)
    if customer_id is None:
        return f"{display_key(given.key)}: forgotten"
    return (
        f"{display_key(given.key)}: forgotten. Customer {customer_id} stays at PayArc, and no record gets it again; "
        "the next run that reads the key's record creates a new one"
    )


def _erase(ledger: Ledger, given: argparse.Namespace) -> str:
    return erase(ledger, _open(ledger, given), given, lambda question: _confirm(given.yes, question))


def _rename_source(ledger: Ledger, given: argparse.Namespace) -> str:
    old, new = given.old, check_source(given.new, "NEW")
    if old == new:
        raise LedgerUnchanged("OLD and NEW are the same name: nothing was changed")
    _open(ledger, given)
    _, accounts = Overview(ledger, given.account).counts()
    sources: Counter[str] = sum((account.sources for account in accounts), Counter())
    if old not in sources:
        known = ", ".join(f'"{name}"' for name in sorted(sources)) or "none"
        raise LedgerUnchanged(f'the ledger has no source "{old}"; it has {known}')
    if new in sources:
        _confirm(
            given.yes,
            f'The ledger already has rows of the source "{new}". After this, the two are one source, and records of '
            "either may change the other's customers. Do their keys stand for the same people?",
        )
    parts = [rename_source(ledger, account.account, old, new) for account in accounts if old in account.sources]
    result = Renamed(sum(part.rows for part in parts), sum(part.held for part in parts))
    if given.json:
        return output.as_json({"old": old, "new": new, "rows": result.rows, "held": result.held})
    return output.renamed(old, new, result)


def _confirm(sure: bool, question: str) -> None:
    if sure:
        return
    print(question, "Type yes: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise LedgerUnchanged("not confirmed: nothing was changed")


def _open(ledger: Ledger, given: argparse.Namespace) -> str:
    """Open the ledger and return the account, or an empty string where the command applies to all accounts."""
    if not ledger.open(create=False):
        raise LedgerUnchanged(
            f"{given.ledger_conn_id} has no ledger {given.ledger_table}: give --ledger-table, or run `rebuild` if the "
            "ledger was lost"
        )
    accounts = Overview(ledger).accounts()
    if given.account is not None and given.account not in accounts:
        raise LedgerUnchanged(f"the ledger has no account {given.account}; it has {', '.join(accounts) or 'none'}")
    if given.account is not None or given.command in ("status", "pending", "rejected", "rename-source"):
        return given.account or ""
    if len(accounts) != 1:
        raise LedgerUnchanged(f"give --account; the ledger has {', '.join(accounts) or 'none'}")
    return accounts[0]


_COMMANDS: dict[str, Callable[[Ledger, argparse.Namespace], str]] = {
    "status": _status,
    "pending": _pending,
    "rejected": _rejected,
    "show": _show,
    "ddl": _ddl,
    "resolve": _resolve,
    "retry": _retry,
    "release": _release,
    "forget": _forget,
    "erase": _erase,
    "rename-source": _rename_source,
    "rebuild": rebuild,
}
