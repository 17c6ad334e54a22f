"""Access: which requests the sandbox answers at all, and who can read its file.

The control endpoint needs no token, so a web page that somebody has open must not reach it. A browser sends a page's
requests with its ``Origin``. It can be tricked into sending them without, if the page's own name suddenly resolves to
this machine (DNS rebinding). But then ``Host`` has that name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from collections.abc import Collection
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)


class OnlyOwnPages:
    """Answers 403 to requests for a foreign ``Host`` or from a foreign ``Origin``; they change nothing.

    :param names: the host names by which clients may address the sandbox, besides ``localhost`` and IP addresses
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = {name.lower() for name in (*names, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": problem}, status_code=403)(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        headers = [(name, value.decode("latin-1").strip().lower()) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = {value for name, value in headers if name == b"origin"}
        sites = {value for name, value in headers if name == b"sec-fetch-site"}
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "foreign Host: use localhost or an IP address, or start the sandbox with --allow-host NAME"
        if not origins <= {f"http://{hosts[0]}"} or not sites <= {"same-origin", "none"}:
            return "foreign Origin: the sandbox answers no pages of other servers"
        return None

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, ""
        if port and not (port.isascii() and port.isdigit()):
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    """Whether this is an IP address, as it stands in a URL. No page can make one of them stand for another machine."""
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def warn_if_public(address: str) -> None:
    """Log a warning if other machines can reach a server that is bound to this address."""
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        log.warning(
            "The sandbox is bound to %s, so other machines can read and change its customers without a token. "
            "Bind it to 127.0.0.1 unless only test data and trusted machines are involved",
            address,
        )


def make_private(path: Path) -> None:
    """Create the file if there is none, and let only its owner read and write it (mode 0600).

    :raises OSError: it cannot be created
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with contextlib.suppress(PermissionError):  # somebody else's file stays as its owner has left it
        path.chmod(0o600)
