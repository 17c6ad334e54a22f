"""Runs the command ``rebuild``: reads the keys, then PayArc's list, then restores the rows."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator

from payarc_provider.hooks.sql import sql_engine
from payarc_provider.ledger import output
from payarc_provider.ledger.key_file import read_keys
from payarc_provider.ledger.merchant import ListProgress, Merchant
from payarc_provider.sync.account import fact_name, new_account
from payarc_provider.sync.database_source import DatabaseSource
from payarc_provider.sync.existing import CustomerIndex
from payarc_provider.sync.key_order import check_key_order
from payarc_provider.sync.ledger import Ledger, LedgerLost
from payarc_provider.sync.ledger.rebuild import KeySet, Rebuild
from payarc_provider.sync.ledger.repair import LedgerUnchanged
from payarc_provider.sync.listing import PatientReader
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.runtime import ThreadedRuntime, run_to_end
from payarc_provider.sync.sources import check_source

_LEDGER_ID = re.compile(r"[0-9a-f]{32}")


def rebuild(ledger: Ledger, given: argparse.Namespace) -> str:
    """Restore the rows of the keys whose references PayArc's customers carry, and return the text to print.

    :raises LedgerUnchanged: when nothing can be rebuilt
    """
    exists = _open(ledger)
    ledger_id = _ledger_id(ledger, given.ledger_id)
    with contextlib.closing(Merchant(given.payarc_conn_id)) as merchant:
        account = _account(ledger, merchant, given.account, exists=exists)
        restoration = Rebuild(ledger, ledger_id, account, check_source(given.source, "--source"))
        input_keys = _Keys(given)
        keys = KeySet(input_keys.all())
        if len(keys) == 0:
            raise LedgerUnchanged("no keys were given")
        if exists:
            restoration.check_unused()
        if ledger.ledger_id:
            check_key_order(ledger, account, given.key, remember=False)
        with ThreadedRuntime(merchant.client) as runtime:
            reader = PatientReader(runtime)
            index = run_to_end(reader.read_list(0.0, lambda: CustomerIndex(ledger_id), on_page=ListProgress().report))
    if not restoration.any_customer(keys, index) and not given.accept_loss:
        raise LedgerUnchanged(
            f"no customer at PayArc carries the reference of one of these keys for the ledger {ledger_id} and "
            f"the account {account}: check --ledger-id, --account and the keys; nothing was changed. If there is "
            "nothing to restore, give --accept-loss"
        )
    _open_with_id(ledger, ledger_id, exists=exists)
    check_key_order(ledger, account, given.key)
    result = restoration.restore(keys, index)
    if given.accept_loss:
        restoration.give_up(result.unexplained)
    if given.accept_loss or not result.unexplained:
        ledger.clear_loss(account)
    ledger.remember(fact_name(merchant.identity), account)  # its customers carry this account's references
    if not given.json:
        return output.rebuilt(account, len(keys), len(index), input_keys.unusable, result, given_up=given.accept_loss)
    facts = {"account": account, "keys": len(keys), "customers": len(index), "unusable": input_keys.unusable}
    found = {"counts": dict(result.counts), "doubts": result.doubts, "unexplained": sorted(result.unexplained)}
    return output.as_json({**facts, **found})


def _open(ledger: Ledger) -> bool:
    """Open the ledger; returns whether it has its tables."""
    try:
        return ledger.open(create=False)
    except LedgerLost:
        return False


def _ledger_id(ledger: Ledger, given: str | None) -> str:
    if given is not None and not _LEDGER_ID.fullmatch(given):
        raise LedgerUnchanged("--ledger-id: a ledger's id has 32 hexadecimal digits, as `status` prints it")
    if given is not None and ledger.ledger_id not in ("", given):
        raise LedgerUnchanged(
            f"--ledger-id: the ledger in this table has another id, {ledger.ledger_id}. Omit --ledger-id; or, if the "
            "ledger was created after the loss and has no rows, drop its two tables first"
        )
    if not (ledger.ledger_id or given):
        raise LedgerUnchanged("the ledger's id is lost too: give --ledger-id, as `status` printed it")
    return ledger.ledger_id or given or ""


def _account(ledger: Ledger, merchant: Merchant, given: str | None, *, exists: bool) -> str:
    known = ledger.fact(fact_name(merchant.identity)) if ledger.ledger_id else None
    if given is not None and known not in (None, given):
        raise LedgerUnchanged(f"the connection {merchant.conn_id} belongs to the account {known}, not {given}")
    if given is not None:
        return given
    return merchant.account(ledger) if exists else known or new_account(merchant.identity)


def _open_with_id(ledger: Ledger, ledger_id: str, *, exists: bool) -> None:
    """Open the ledger; if it is lost, create the missing tables and give it its old id."""
    if not exists:
        with ledger.database.write() as connection:
            ledger.schema.create(connection)
        ledger.remember("ledger_id", ledger_id)
    ledger.open()


class _Keys:
    """The keys that the user named.

    ``unusable``: the number of records in the table that have no usable key
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.unusable = 0
        self._given = given

    def all(self) -> Iterator[str]:
        return read_keys(self._given.keys_from) if self._given.keys_from else self._from_table()

    def _from_table(self) -> Iterator[str]:
        given = self._given
        reader = RecordReader(given.key, None, "")
        engine = sql_engine(given.sql_conn_id, "--sql-conn-id")
        try:
            source = DatabaseSource(engine, reader.key_columns, [], name=given.source, table_name=given.table)
            for page in source.pages():
                for row in page:
                    key = reader.key_of(row)
                    if key is None:
                        self.unusable += 1
                    else:
                        yield key
        finally:
            engine.dispose()
