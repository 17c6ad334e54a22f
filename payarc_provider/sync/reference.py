"""The reference: a code at the end of a customer's description by which a run recognizes the customer it created.

It is the end of the description and consists of lower-case letters and digits only, because PayArc may strip or escape
other characters. Its first four characters, the *tag*, are the same for all keys of an account in a ledger.
"""

from __future__ import annotations

import functools
import hashlib
import re

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o or u, which are easily misread
TAG_LENGTH = 4
LENGTH = 16
MAX_DESCRIPTION = 50  # characters, by PayArc's guide
_NO_DESCRIPTION = "ref"
_AT_END = re.compile(rf"([{ALPHABET}]{{{LENGTH}}})\s*\Z", re.IGNORECASE | re.ASCII)


@functools.lru_cache(maxsize=4096)
def reference(ledger_id: str, account: str, key: str) -> str:
    """The reference of a key in an account of a ledger: the tag, and 12 characters (60 bits) for the key.

    It reveals nothing about the key.
    """
    return reference_tag(ledger_id, account) + _code(ledger_id, "key", f"{account}\x00{key}", LENGTH - TAG_LENGTH)


@functools.lru_cache(maxsize=16)
def reference_tag(ledger_id: str, account: str) -> str:
    """The first four characters (20 bits) of the references of an account in a ledger."""
    return _code(ledger_id, "tag", account, TAG_LENGTH)


def _code(ledger_id: str, purpose: str, text: str, length: int) -> str:
    hashed = hashlib.blake2b(text.encode(), key=ledger_id.encode(), person=purpose.encode(), digest_size=8)
    number = int.from_bytes(hashed.digest(), "big")
    return "".join(ALPHABET[number >> (5 * position) & 31] for position in range(length))


def with_reference(description: str | None, code: str) -> str | None:
    """The description with the reference at its end, or None if it does not fit: a description is never cut."""
    text = f"{description or _NO_DESCRIPTION} {code}"
    return text if len(text) <= MAX_DESCRIPTION else None


def find_reference(description: object) -> str | None:
    """The end of a listed customer's description if it looks like a reference of some ledger; None if not."""
    found = _AT_END.search(description) if isinstance(description, str) else None
    return found.group(1).lower() if found else None


def without_reference(description: str) -> str:
    """The record's own description, without the reference; empty if the record has none."""
    own = _AT_END.sub("", description).rstrip()
    return "" if own == _NO_DESCRIPTION else own
