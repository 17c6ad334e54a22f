"""The access token: removes paste errors, and reads what the token says about itself.

PayArc's token is a long-lived secret from the dashboard. It is a JWT with ``sub`` (the merchant's user) and ``exp``,
about five years after ``iat`` (observed); a token that is not a JWT works just as well. Nothing read here is verified
or trusted: it serves only to warn before a token expires, and to notice that a token belongs to another user.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from payarc_provider.exceptions import PayarcConfigError

__all__ = ["WARN_BEFORE", "ExpiryProblem", "Identity", "TokenClaims", "clean_token", "expiry_problem", "read_claims"]

#: Seconds before a token expires from which `expiry_problem` warns.
WARN_BEFORE = 30 * 86400.0

_BEARER = re.compile(r"bearer(\s+|$)", re.IGNORECASE)
_SENDABLE = re.compile("[!-~\xa1-\xac\xae-\xff]+")  # Latin-1 without white space and what cannot be seen
_REMEDY = "put PayArc's access token (dashboard, API) into the connection's password"


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says about itself, unverified; None where it says nothing.

    :param sub: the merchant's user that it belongs to
    :param expires_at: Unix seconds
    """

    sub: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """How a connection and its token identify the merchant.

    :param environment: ``test``, ``live``, or the name of another host
    :param account: the connection's ``account``, if it is set
    :param user: the token's user, or a hash of a token that names none, so that another token is noticed
    """

    environment: str
    account: str | None
    user: str

    @classmethod
    def of(cls, environment: str, account: str | None, token: str) -> Identity:
        """The identity that a connection with this token has."""
        user = read_claims(token).sub or "token-" + hashlib.sha256(token.encode()).hexdigest()[:16]
        return cls(environment, account, user)


@dataclass(frozen=True, slots=True)
class ExpiryProblem:
    """A message for people. ``expired``: whether the token has expired already (an error) or will soon (a warning)."""

    text: str
    expired: bool


def clean_token(token: str | None) -> str:
    """The token without surrounding white space and without an accidental ``Bearer``.

    :raises PayarcConfigError: it is missing or cannot be sent in a header; the message never shows it
    """
    text = (token or "").strip()
    if prefix := _BEARER.match(text):
        text = text[prefix.end() :]
    if not text:
        raise PayarcConfigError(f"no access token: {_REMEDY}")
    if not _SENDABLE.fullmatch(text):
        raise PayarcConfigError(
            f"the access token contains a character that no token has, such as white space: {_REMEDY} again, as one "
            "line, exactly as the dashboard shows it"
        )
    return text


def read_claims(token: str) -> TokenClaims:
    """What the token says about itself; nothing if it is opaque or broken. Never raises."""
    parts = token.split(".")
    if len(parts) != 3:
        return TokenClaims()
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return TokenClaims()
    if not isinstance(claims, dict):
        return TokenClaims()
    sub = claims.get("sub")
    is_text = isinstance(sub, str) and sub.strip() and sub.isprintable()
    named = is_text or (isinstance(sub, int) and not isinstance(sub, bool))
    return TokenClaims(sub=str(sub).strip() if named else None, expires_at=_seconds(claims.get("exp")))


def expiry_problem(claims: TokenClaims, now: float) -> ExpiryProblem | None:
    """The problem with a token that has expired or will within `WARN_BEFORE`; None if there is none.

    :param now: Unix seconds
    """
    end = claims.expires_at
    if end is None or now < end - WARN_BEFORE:
        return None
    remedy = "create a new one in PayArc's dashboard and put it into the connection's password"
    if now >= end:
        return ExpiryProblem(f"PayArc's access token expired on {_day(end)}: {remedy}", expired=True)
    days = int((end - now) // 86400)
    when = f"in {days} day{'' if days == 1 else 's'}" if days else "within a day"
    return ExpiryProblem(f"PayArc's access token expires {when}, on {_day(end)}: {remedy}", expired=False)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


def _day(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (OverflowError, OSError, ValueError):
        return "a day out of range"
