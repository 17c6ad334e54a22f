"""The reference: a short code by which a customer is recognised in PayArc's list."""

from __future__ import annotations

import functools
import hashlib
import re

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
LENGTH = 12
MAX_DESCRIPTION = 50  # PayArc's guide
_AT_END = re.compile(rf"#([{ALPHABET}]{{{LENGTH}}})\s*\Z", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def reference(ledger_id: str, account: str, key: str) -> str:
    """The code (12 characters, 60 bits) of one (account, key) in one ledger; it tells nothing of the key."""
    text = "\x00".join((account, key)).encode()
    number = int.from_bytes(hashlib.blake2b(text, key=ledger_id.encode(), digest_size=8).digest(), "big")
    return "".join(ALPHABET[number >> (5 * place) & 31] for place in range(LENGTH))


def with_reference(description: str | None, code: str) -> str | None:
    """The description that carries the code, or None where the record's own description leaves no room for it."""
    carried = f"{description or 'ref'} #{code}"
    return carried if len(carried) <= MAX_DESCRIPTION else None


def find_reference(description: object) -> str | None:
    """The code at the end of a listed customer's description, if something like one is there."""
    found = _AT_END.search(description) if isinstance(description, str) else None
    return found.group(1).lower() if found else None


def without_reference(description: str) -> str | None:
    """The record's own description, as it was before it was made to carry the code."""
    own = _AT_END.sub("", description).rstrip()
    return None if own == "ref" else own
