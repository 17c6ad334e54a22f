"""Places in a ledger as they stand in a page's address.

Addresses end up in access logs and browsers' histories, and a key may be personal data though it must not. So a place
is encrypted, with a key made from the ledger's id, which every API server reads from the ledger itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken


def seal(ledger_id: str, place: Any) -> str:
    """A place, of JSON's types, as text for an address."""
    return _cipher(ledger_id).encrypt(json.dumps(place).encode()).decode()


def unseal(ledger_id: str, text: str) -> Any:
    """The place again.

    :raises ValueError: this ledger did not seal it
    """
    try:
        return json.loads(_cipher(ledger_id).decrypt(text.encode()))
    except InvalidToken:
        raise ValueError("not a place in this ledger") from None


def _cipher(ledger_id: str) -> Fernet:
    key = hashlib.blake2b(ledger_id.encode(), digest_size=32, person=b"payarc page").digest()
    return Fernet(base64.urlsafe_b64encode(key))
