"""Fingerprints: one short keyed hash per field, by which a row shows what was sent without storing any value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from payarc_provider.api.fields import FIELDS, shown_value
from payarc_provider.sync.reference import without_reference

_SIZE = 8  # bytes


def listed_fields(customer: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a customer that PayArc returned, as they would be in a record; the reference is left in."""
    fields = {name: shown_value(customer.get(name)) for name in FIELDS}
    return {name: text for name, text in fields.items() if text}


def altered_fields(sent: Mapping[str, str], customer: Mapping[str, Any]) -> set[str]:
    """The fields that a customer shows with another value than was sent."""
    return {name for name, value in sent.items() if name in customer and shown_value(customer[name]) != value}


def own_fields(customer: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a customer that PayArc returned, as they would be in a record, without the reference."""
    fields = listed_fields(customer)
    own = without_reference(fields.pop("description", ""))
    return fields | {"description": own} if own else fields


def fingerprints(secret: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Field → fingerprint: 16 hexadecimal digits."""
    return {name: _fingerprint(secret, name, value) for name, value in fields.items()}


def _fingerprint(secret: str, name: str, value: str) -> str:
    text = f"{name}\x1e{value}".encode(errors="surrogatepass")  # what PayArc shows need not be valid Unicode
    return hashlib.blake2b(text, key=secret.encode(), digest_size=_SIZE).hexdigest()


def as_column(prints: Mapping[str, str]) -> str:
    """Fingerprints as the ledger stores them: ``email:0123456789abcdef name:…``, sorted."""
    return " ".join(f"{name}:{prints[name]}" for name in sorted(prints))


def without_description(prints: Mapping[str, str]) -> str:
    """The fingerprints of all fields but the description, as `as_column` writes them."""
    return as_column({name: one for name, one in prints.items() if name != "description"})


def from_column(text: str, *, leave_out: str = "") -> dict[str, str]:
    """Field → fingerprint, as `as_column` wrote it, without the field ``leave_out``."""
    return {name: one for name, _, one in (entry.partition(":") for entry in text.split()) if name != leave_out}
