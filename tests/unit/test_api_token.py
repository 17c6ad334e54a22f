"""The access token: pasted badly, about to expire, or no JWT at all."""

from __future__ import annotations

import base64
import json

import pytest

from payarc_provider.api.token import TokenClaims, clean_token, expiry_problem, read_claims
from payarc_provider.exceptions import PayarcConfigError

DAY = 86400.0


def jwt(payload: object) -> str:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"e30.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    "pasted", ["abc.def", "  abc.def\n", "Bearer abc.def", "bearer   abc.def ", " BEARER\tabc.def"]
)
def test_paste_accidents_are_cleaned(pasted):
    assert clean_token(pasted) == "abc.def"


def test_a_token_that_begins_with_bearer_is_left_alone():
    assert clean_token("Bearerabc") == "Bearerabc"


@pytest.mark.parametrize("missing", [None, "", "  ", "Bearer", "Bearer "])
def test_a_missing_token_says_where_to_put_it(missing):
    with pytest.raises(PayarcConfigError, match="connection's password"):
        clean_token(missing)


@pytest.mark.parametrize(
    "token", ["s3cret\x00x", "s3cret\nx", "s3cret x", "s3cret\u20ac", "s3cret\x85x", "s3cret\xa0x"]
)
def test_an_invalid_token_is_rejected_and_not_shown(token):
    with pytest.raises(PayarcConfigError, match="connection's password") as caught:
        clean_token(token)
    assert "s3cret" not in str(caught.value)


def test_claims_of_payarcs_token():
    token = jwt(
        {"aud": "1", "jti": "x", "iat": 1.5e9, "nbf": 1500000000, "exp": 1657766400, "sub": "4711", "scopes": []}
    )
    assert read_claims(token) == TokenClaims(sub="4711", expires_at=1657766400.0)
    assert read_claims(jwt({"sub": 4711})).sub == "4711"


@pytest.mark.parametrize("sub", ["a\nb", "a\u202eb", "a\x00", "\ud800", 10**400, True, ["a"], {"a": 1}, 1.5])
def test_a_user_that_cannot_be_shown_is_none(sub):
    assert read_claims(jwt({"sub": sub})).sub in (None, str(10**400))


@pytest.mark.parametrize("payload", ["ü" * n for n in range(1, 5)])
def test_claims_of_every_padding(payload):
    assert read_claims(jwt({"sub": payload})).sub == payload


@pytest.mark.parametrize("token", ["", "opaque", "a.b", "a.b.c.d", "..", "a.%%%.c", "a.é.c"])
def test_an_opaque_token_says_nothing(token):
    assert read_claims(token) == TokenClaims()


def test_a_broken_payload_says_nothing():
    huge = b'{"exp": 1' + b"0" * 400 + b"}"
    for payload in [b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b'{"exp": Infinity, "iat": NaN}', huge, b"1" * 5000]:
        assert read_claims(jwt(payload)) == TokenClaims()
    for claims in [{"sub": "", "exp": "soon", "iat": True}, {"sub": True, "exp": None}, {"sub": ["x"]}]:
        assert read_claims(jwt(claims)) == TokenClaims()


def test_expiry_is_reported_from_thirty_days_before():
    claims = TokenClaims(expires_at=1_700_000_000.0)
    assert expiry_problem(claims, 1_700_000_000.0 - 30 * DAY - 1) is None
    warning = expiry_problem(claims, 1_700_000_000.0 - 30 * DAY)
    assert warning is not None
    assert not warning.expired
    assert "in 30 days, on 2023-11-14" in warning.text
    assert "in 1 day," in getattr(expiry_problem(claims, 1_700_000_000.0 - 1.5 * DAY), "text", "")
    assert "within a day" in getattr(expiry_problem(claims, 1_700_000_000.0 - 60), "text", "")
    error = expiry_problem(claims, 1_700_000_000.0)
    assert error is not None
    assert error.expired
    assert "expired on 2023-11-14" in error.text
    assert "connection's password" in error.text


def test_no_expiry_no_problem():
    assert expiry_problem(TokenClaims(), 1e12) is None


def test_an_expiry_beyond_the_calendar_is_reported():
    problem = expiry_problem(TokenClaims(expires_at=-1e18), 0.0)
    assert problem is not None
    assert problem.expired
