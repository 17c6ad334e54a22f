"""The receipt of an erasure: what was deleted, how that was verified, what was kept and why; no personal value."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from payarc_provider.ledger import output
from payarc_provider.sync.ledger.rows import iso


class Proof(StrEnum):
    """How the deletion of a customer was verified."""

    NOT_FOUND = "PayArc has no customer with this id any more (404)"
    SOFT = "PayArc does not list it any more, but still returns it by its id: ask PayArc to remove what it keeps"


@dataclass(slots=True)
class ErasedKey:
    """What became of one key.

    :param key: as logs may show it
    :param reference: the keyed hash of the key, which the ledger keeps
    :param ledger: what the ledger had for it, and what became of that
    :param customers: the deleted customers' ids, each with how the deletion was verified
    :param at: when the erasure was finished; None while it is not
    :param problem: why it is not finished
    """

    key: str
    reference: str
    ledger: str
    customers: dict[str, Proof] = field(default_factory=dict)
    at: datetime.datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure.

    :param at: the time of the ledger's database
    :param merchant: the connection's account, or the id of the token's user
    :param account: under which the ledger keeps the merchant's rows
    :param searched: whether PayArc's list was searched for further customers with the keys' references
    """

    at: datetime.datetime
    connection: str
    environment: str
    merchant: str
    account: str
    searched: bool
    keys: Sequence[ErasedKey]

    def as_json(self) -> str:
        """The receipt as JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ("connection", "environment", "merchant")}
        values |= {"time": self.at, "account": self.account, "searched": self.searched}
        keys = [
            {
                "key": one.key,
                "reference": one.reference,
                "erased_at": iso(one.at) if one.at else None,
                "ledger": one.ledger,
                "customers": {customer_id: str(proof) for customer_id, proof in one.customers.items()},
                "problem": one.problem,
            }
            for one in self.keys
        ]
        return output.as_json({**values, "keys": keys, "kept": _kept(self.keys), "not_covered": _NOT_COVERED})

    def as_text(self) -> str:
        """The receipt for people."""
        head = {
            "time": iso(self.at),
            "connection": self.connection,
            "environment": self.environment,
            "merchant": self.merchant,
            "account": self.account,
        }
        lines = ["ERASURE", *(f"{name:<11} {text}" for name, text in head.items())]
        for one in self.keys:
            lines += ["", f"key         {one.key}, reference {one.reference}", *_about(one)]
        others = _SEARCHED if self.searched else _NOT_SEARCHED
        lines += ["", *output.wrapped(f"Other customers: {others}.")]
        lines += output.wrapped(f"Kept: {'; '.join(_kept(self.keys))}.") if _kept(self.keys) else []
        return "\n".join([*lines, *output.wrapped(f"Not covered: {_NOT_COVERED}.")])


_SEARCHED = "PayArc's whole list was searched for further customers with these references"
_NOT_SEARCHED = "not searched, since the ledger creates at most one customer for a key"
_NOT_COVERED = (
    "the records in the source and in its column for ids, XComs and logs of earlier runs, backups, and what PayArc "
    "keeps of deleted customers; docs/security.md says how to remove each"
)


def _kept(keys: Sequence[ErasedKey]) -> list[str]:
    kept = []
    if any(one.at for one in keys):
        kept.append(
            "the reference, which is a keyed hash of the key, and the time, so that no run creates the customer again"
        )
    if any(one.customers for one in keys):
        kept.append("the ids of deleted customers, so that no other record gets one of them")
    return kept


def _about(one: ErasedKey) -> list[str]:
    if one.problem is not None:
        return output.wrapped(f"NOT ERASED: {one.problem}", "  ")
    lines = output.wrapped(f"ledger: {one.ledger}", "  ")
    for customer_id, proof in one.customers.items():
        lines += output.wrapped(f"PayArc: customer {customer_id} was deleted. Verified: {proof}", "  ")
    if not one.customers:
        lines += output.wrapped("PayArc: no customer was deleted now, since the ledger knew none", "  ")
    return lines
