"""The base URL: the same text for the same server, and no http beyond loopback."""

from __future__ import annotations

import pytest

from payarc_provider.api.http import check_base_url, is_loopback
from payarc_provider.exceptions import PayarcConfigError


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("https://testapi.payarc.net/v1", "https://testapi.payarc.net/v1"),
        (" https://TestAPI.payarc.net/ ", "https://testapi.payarc.net/v1"),
        ("https://testapi.payarc.net", "https://testapi.payarc.net/v1"),
        ("https://testapi.payarc.net:443/v1/", "https://testapi.payarc.net/v1"),
        ("https://gateway.example:8443/payarc/v2//", "https://gateway.example:8443/payarc/v2"),
        ("HTTP://localhost:8000", "http://localhost:8000/v1"),
        ("http://127.8.9.1:80/v1", "http://127.8.9.1/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://10.0.0.1", "https://10.0.0.1/v1"),
    ],
)
def test_base_urls_are_normalized(given, form):
    assert check_base_url(given) == form
    assert check_base_url(form) == form


@pytest.mark.parametrize(
    "given",
    [
        "http://testapi.payarc.net/v1", "http://localhost.evil.example", "http://127.0.0.1.evil.example", "http://128.0.0.1",
        "http://10.0.0.1", "http://[::2]", "ftp://localhost", "//testapi.payarc.net", "testapi.payarc.net", "",
        "https://", "https:///v1", "https://user@host/v1", "https://user:s3cret@host/v1", "https://host/v1?key=s3cret",
        "https://host/v1#x", "https://host/v1?", "https://a b/v1", "https://host\n/v1", "https://host\\@evil.example/",
        "https://host:port/v1", "https://host:99999/v1", "https://[::1/v1", "https://a..b/v1", "https://-/v1", "https://é.example",
    ],
)  # fmt: skip
def test_an_invalid_base_url_is_rejected_without_showing_it(given):
    with pytest.raises(PayarcConfigError, match="connection's host") as caught:
        check_base_url(given)
    assert "s3cret" not in str(caught.value)
    assert "evil" not in str(caught.value)


def test_loopback():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.255.0.9", "::1"))
    assert not any(is_loopback(host) for host in ("", "example.com", "126.0.0.1", "::2", "0.0.0.0", "127.1"))
