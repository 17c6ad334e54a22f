"""Which tokens the sandbox accepts."""

import base64
import json
import time

import pytest
import requests
from sandbox_client import Client

from payarc_provider.sandbox import SANDBOX_TOKEN, make_token


def test_a_token_has_the_format_of_payarcs():
    head, claims, signature = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in make_token(sub="7").split(".")
    )

    assert json.loads(head) == {"typ": "JWT", "alg": "RS256"}
    assert set(json.loads(claims)) == {"aud", "jti", "iat", "nbf", "exp", "sub", "scopes"}
    assert json.loads(claims)["sub"] == "7"
    assert json.loads(claims)["exp"] > time.time() + 4 * 365 * 86_400
    assert signature == b"sandbox-signature"
    assert make_token() != make_token()


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "a.b." + SANDBOX_TOKEN.split(".")[2], make_token(expires_in=-1)])
def test_an_invalid_or_expired_token_is_a_401(sandbox, token):
    with Client(sandbox, token) as client:
        response = client.create()

    assert (response.status_code, response.json()) == (401, {"error": "Unauthenticated."})
    assert sandbox.customers() == []
    assert sandbox.stats()["posts"]["unauthorized"] == 1


def test_a_missing_token_is_a_401(sandbox):
    assert requests.get(f"{sandbox.url}/customers", timeout=5).status_code == 401


def test_tokens_can_be_added_and_revoked(client, sandbox):
    sandbox.settings(tokens={"opaque": "1"})
    client.create()
    sandbox.revoke(SANDBOX_TOKEN)

    assert client.get("").status_code == 401
    with Client(sandbox, "opaque") as other:
        assert len(other.rows()) == 1
