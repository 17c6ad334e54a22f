"""The address of the API, in one form, so that the same server is always the same text."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from payarc_provider.exceptions import PayarcConfigError

__all__ = ["check_base_url", "is_loopback"]

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_NOT_IN_A_URL = re.compile(r"[\s\\?#@\x00-\x1f]")
_DEFAULT_PORT = {"https": 443, "http": 80}


def check_base_url(url: str) -> str:
    """The API's base URL in one form: lower case host, no default port, no slash at the end, ``/v1`` if it has no path.

    :raises PayarcConfigError: not an https URL (http is for loopback only), or it holds credentials, a query or a
        fragment; the text names the connection's host field and does not show what is in it
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not _HOST.fullmatch(host) or ".." in host or _NOT_IN_A_URL.search(url.strip()):
        raise PayarcConfigError(
            "the connection's host is not a base URL: give one such as https://testapi.payarc.net/v1, "
            "without credentials, query or fragment, or leave it empty"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise PayarcConfigError(
            "the connection's host must begin with https://, since the access token travels with every request "
            "(http:// only for localhost)"
        )
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORT[parts.scheme]:
        shown += f":{port}"
    return f"{parts.scheme}://{shown}{parts.path.rstrip('/') or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
