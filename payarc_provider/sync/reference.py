"""References: short codes in descriptions, by which customers are recognized in PayArc's list."""

from __future__ import annotations

import functools
import hashlib
import re

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o or u, which are easily misread
LENGTH = 12
MAX_DESCRIPTION = 50  # characters, by PayArc's guide
_NO_DESCRIPTION = "ref"
_AT_END = re.compile(rf"#([{ALPHABET}]{{{LENGTH}}})\s*\Z", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def reference(ledger_id: str, account: str, key: str) -> str:
    """The reference of a key in an account of a ledger: 12 characters, 60 bits. It reveals nothing about the key."""
    text = "\x00".join((account, key)).encode()
    number = int.from_bytes(hashlib.blake2b(text, key=ledger_id.encode(), digest_size=8).digest(), "big")
    return "".join(ALPHABET[number >> (5 * position) & 31] for position in range(LENGTH))


def with_reference(description: str | None, code: str) -> str | None:
    """The description with the reference at its end, or None if it does not fit: a description is never cut."""
    text = f"{description or _NO_DESCRIPTION} #{code}"
    return text if len(text) <= MAX_DESCRIPTION else None


def find_reference(description: object) -> str | None:
    """The reference at the end of a listed customer's description, or None if it has none."""
    found = _AT_END.search(description) if isinstance(description, str) else None
    return found.group(1).lower() if found else None


def without_reference(description: str) -> str | None:
    """The record's own description, without the reference; None if the record has none."""
    own = _AT_END.sub("", description).rstrip()
    return None if own == _NO_DESCRIPTION else own
