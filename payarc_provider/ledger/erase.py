"""Runs the command ``erase``: deletes customers at PayArc, verifies that they are gone, and prints a receipt."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tenacity

from payarc_provider.exceptions import (
    PayarcConnectionFailed,
    PayarcError,
    PayarcNotFound,
    PayarcRateLimited,
    PayarcUnknownOutcome,
)
from payarc_provider.ledger.key_file import read_keys
from payarc_provider.ledger.merchant import ListProgress, Merchant
from payarc_provider.ledger.receipt import ErasedKey, Proof, Receipt
from payarc_provider.sync.keys import UnusableKey, composite_key_text, display_key, key_text
from payarc_provider.sync.ledger import Ledger, Row
from payarc_provider.sync.ledger.erasure import Erasure
from payarc_provider.sync.ledger.repair import LedgerUnchanged
from payarc_provider.sync.ledger.tombstones import Tombstone
from payarc_provider.sync.listing import PatientReader
from payarc_provider.sync.reference import find_reference, reference
from payarc_provider.sync.runtime import ThreadedRuntime, run_to_end

T = TypeVar("T")

PATIENCE = 300.0  # seconds for one request to PayArc, with its repetitions
_SHOWN = 10


class ErasureIncomplete(PayarcError):
    """Some keys were not erased; run the command again.

    :param report: the receipt, which has the reasons
    """

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


def erase(ledger: Ledger, account: str, given: argparse.Namespace, confirm: Callable[[str], None]) -> str:
    """Erase the keys, or undo that, and return the text to print.

    :param confirm: asks a question, and raises `LedgerUnchanged` unless the answer is yes
    :raises LedgerUnchanged: a key cannot be erased now; nothing was changed
    :raises ErasureIncomplete: some of the keys could not be erased
    """
    erasure = Erasure(ledger, account)
    found = dict(_find(erasure, text) for text in _texts(given))
    if given.undo:
        return _undo(erasure, list(found), confirm)
    if not given.without_row and (unknown := [key for key, one in found.items() if one is None]):
        raise LedgerUnchanged(
            f"the ledger has no key {display_key(unknown[0])} in the account {account}: check it (several columns are "
            "a JSON list). To bar a key without a row, give --without-row"
        )
    references = {key: reference(ledger.ledger_id, account, key) for key in found}
    searched = given.search or any(erasure.may_have_others(one) for one in found.values())
    with contextlib.closing(Merchant(given.payarc_conn_id)) as merchant:
        merchant.check_account(ledger, account)
        _patiently(merchant.client.ping)  # a token that PayArc does not accept must not leave erasures unfinished
        listed = _read_list(merchant, _Listed(set(references.values()))) if searched else _Listed(set())
        others = {key: listed.carriers.get(code, set()) for key, code in references.items()}
        confirm(_question(merchant, account, found, others))
        eraser = _Eraser(erasure, merchant, given)
        keys = [eraser.erase(key, found[key], others[key], references[key]) for key in found]
        identity = merchant.identity
    receipt = Receipt(
        ledger.now(),
        given.payarc_conn_id,
        identity.environment,
        identity.account or identity.user or "unknown",
        account,
        searched,
        keys,
    )
    text = receipt.as_json() if given.json else receipt.as_text()
    if failed := sum(one.problem is not None for one in keys):
        raise ErasureIncomplete(f"{failed} of {len(keys)} keys not erased: the receipt says why", text)
    return text


def _texts(given: argparse.Namespace) -> Iterable[str]:
    """The keys as the user wrote them."""
    return read_keys(given.keys_from) if given.keys_from else given.keys


def _find(erasure: Erasure, text: str) -> tuple[str, Row | Tombstone | None]:
    """The key as the ledger writes it, and what the ledger has for it. A list may be written with spaces."""
    try:
        key = key_text(text)
        if (found := erasure.check(key)) is None and text.startswith("["):
            with contextlib.suppress(ValueError, TypeError):
                key = composite_key_text(json.loads(text))
                found = erasure.check(key)
    except UnusableKey as problem:
        raise LedgerUnchanged(f"KEY {problem}") from None
    return key, found


def _undo(erasure: Erasure, keys: list[str], confirm: Callable[[str], None]) -> str:
    confirm(f"The next run that reads a record with {_counted(keys, 'key')} creates a customer for it again.")
    for key in keys:
        erasure.undo(key)
    return "\n".join(f"{display_key(key)}: may have a customer again" for key in keys)


def _question(
    merchant: Merchant,
    account: str,
    found: Mapping[str, Row | Tombstone | None],
    others: Mapping[str, Collection[str]],
) -> str:
    customers = [
        f"{', '.join(ids)} of the key {display_key(key)}"
        for key, one in found.items()
        if (ids := sorted({*_known(one), *others[key]}))
    ]
    shown = "; ".join(customers[:_SHOWN]) + ("; …" if len(customers) > _SHOWN else "")
    deleted = f"customers {shown}" if customers else "nothing, since the ledger knows no customer of these keys"
    return (
        f"This deletes at PayArc for good (account {account}, connection {merchant.conn_id}): {deleted}. No run "
        f"creates a customer for {_counted(found, 'key')} again. Sure?"
    )


def _about_ledger(found: Row | Tombstone | None) -> str:
    """What the ledger had for a key, for the receipt."""
    if found is None:
        return "it had no row"
    if isinstance(found, Row):
        return "its row was deleted"
    if found.done:
        return f"the key was erased on {found.done:%Y-%m-%d}, and nothing was left to do"
    return f"its row was deleted on {found.since:%Y-%m-%d}, when the erasure was begun"


def _known(found: Row | Tombstone | None) -> tuple[str, ...]:
    """The customers that the ledger knows of a key."""
    if isinstance(found, Row):
        return (found.customer_id,) if found.customer_id else ()
    return found.customers if found else ()


def _counted(keys: Collection[str], noun: str) -> str:
    return f"this {noun}" if len(keys) == 1 else f"these {len(keys)} {noun}s"


@dataclass(slots=True)
class _Listed:
    """Collects from PayArc's list the customers that carry one of these references, and which of these ids it has."""

    references: Collection[str]
    ids: Collection[str] = ()
    carriers: dict[str, set[str]] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    def add(self, customer: dict[str, Any]) -> None:
        """Take in a listed customer."""
        customer_id, code = customer["customer_id"], find_reference(customer.get("description"))
        if code in self.references and code is not None:
            self.carriers.setdefault(code, set()).add(customer_id)
        if customer_id in self.ids:
            self.found.add(customer_id)


def _read_list(merchant: Merchant, wanted: _Listed) -> _Listed:
    """What PayArc's whole list has of this."""
    with ThreadedRuntime(merchant.client) as runtime:
        reading = PatientReader(runtime).read_list(
            0.0, lambda: _Listed(wanted.references, wanted.ids), on_page=ListProgress().report
        )
        return run_to_end(reading)


class _Eraser:
    """Erases keys one by one."""

    def __init__(self, erasure: Erasure, merchant: Merchant, given: argparse.Namespace) -> None:
        self._erasure = erasure
        self._merchant = merchant
        self._given = given

    def erase(self, key: str, found: Row | Tombstone | None, others: Collection[str], code: str) -> ErasedKey:
        """Erase a key. What goes wrong is in the result, so that the other keys are erased nevertheless."""
        result = ErasedKey(display_key(key), code, _about_ledger(found))
        try:
            if isinstance(found, Tombstone) and found.done and not others:
                result.at = found.done
                return result
            begun = self._erasure.begin(key, others, without_row=self._given.without_row)
            for customer_id in begun.customers:
                result.customers[customer_id] = self._delete(customer_id)
            result.at = self._erasure.finish(key).done
        except PayarcError as error:
            result.problem = str(error)
        return result

    def _delete(self, customer_id: str) -> Proof:
        """Delete a customer and read it back. Deleting may be repeated."""
        client = self._merchant.client
        with contextlib.suppress(PayarcNotFound):
            _patiently(lambda: client.delete_customer(customer_id))
        try:
            _patiently(lambda: client.get_customer(customer_id))
        except PayarcNotFound:
            return Proof.NOT_FOUND
        if _read_list(self._merchant, _Listed((), {customer_id})).found:
            raise PayarcUnknownOutcome(
                f"PayArc still lists customer {customer_id} after its deletion: delete it in PayArc's dashboard, then "
                "run the command again"
            )
        if not self._given.accept_soft_deletion:
            raise PayarcUnknownOutcome(
                f"PayArc does not list customer {customer_id} any more, but still returns it by its id: ask PayArc to "
                "remove it and run the command again, or accept this with --accept-soft-deletion"
            )
        return Proof.SOFT


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, PayarcRateLimited) and error.retry_after is not None:
        return error.retry_after + 0.1
    return float(min(30.0, 0.25 * 2**state.attempt_number))


def _patiently(call: Callable[[], T]) -> T:
    """The result of a request that may be repeated, repeated while PayArc's limit or the network prevents it."""
    passing = (PayarcRateLimited, PayarcConnectionFailed, PayarcUnknownOutcome)
    stop = tenacity.stop_after_delay(PATIENCE) | tenacity.stop_after_attempt(8)
    retry = tenacity.retry_if_exception_type(passing)
    return tenacity.Retrying(retry=retry, wait=_pause, stop=stop, reraise=True)(call)
