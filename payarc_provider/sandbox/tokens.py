"""Access tokens: well-formed JWTs like PayArc's, with a signature that is visibly fake."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
from functools import lru_cache
from typing import Any

FIVE_YEARS = 5 * 365 * 86_400
"""The lifetime of PayArc's tokens, in seconds."""


def make_token(sub: str = "1", expires_in: float = FIVE_YEARS, **claims: Any) -> str:
    """A new token for the merchant ``sub``, which every sandbox accepts.

    :param sub: the merchant; merchants cannot see each other's customers
    :param expires_in: seconds until it expires; negative for a token that has expired
    :param claims: additional claims, or other values for ``aud``, ``jti``, ``iat``, ``nbf``, ``exp``, ``scopes``
    """
    now = int(time.time())
    payload = {
        "aud": "1",
        "jti": secrets.token_hex(40),
        "iat": now,
        "nbf": now,
        "exp": int(now + expires_in),
        "sub": sub,
        "scopes": [],
        **claims,
    }
    return ".".join((_segment({"typ": "JWT", "alg": "RS256"}), _segment(payload), _FAKE_SIGNATURE))


@lru_cache(maxsize=1024)
def token_claims(token: str) -> dict[str, Any] | None:
    """The claims of a token from :func:`make_token`, expired or not; None for any other text."""
    parts = token.split(".")
    if len(parts) != 3 or parts[2] != _FAKE_SIGNATURE:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _segment(value: dict[str, Any] | bytes) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


_FAKE_SIGNATURE = _segment(b"sandbox-signature")

SANDBOX_TOKEN = make_token(jti="sandbox" * 11, iat=1_767_225_600, nbf=1_767_225_600, exp=4_102_444_800)
"""A token of merchant ``1``, the same in every process; only sandboxes accept it."""
