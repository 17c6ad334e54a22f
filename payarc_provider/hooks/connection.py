"""A connection of type ``payarc``, checked field by field."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from payarc_provider.api.http import check_base_url, is_loopback
from payarc_provider.api.token import clean_token
from payarc_provider.exceptions import PayarcConfigError

HOSTS: dict[str, str] = {"test": "https://testapi.payarc.net/v1", "live": "https://api.payarc.net/v1"}
EXTRAS = ("environment", "account", "timeout", "verify")
DEFAULT_TIMEOUT = 30.0

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}")
_UNVERIFIED = (
    "verify is false and the environment live, so anybody between here and PayArc can read the token: set verify to "
    "true, or to the path of a CA bundle"
)


@dataclass(frozen=True)
class PayarcConnection:
    """A checked connection.

    :param base_url: with the path of the API's version, without a trailing slash
    :param environment: ``test``, ``live``, or the name of another host; part of the scope of a ledger's rows
    :param account: the merchant, if the connection names it
    :param timeout: the total deadline of a request, in seconds
    :param verify: True, False, or the path of a CA bundle
    :param risk: what is dangerous about the settings, and what to do; None if nothing is
    """

    base_url: str
    environment: str
    account: str | None
    timeout: float
    verify: bool | str
    risk: str | None = None


def read_connection(connection: Any) -> PayarcConnection:
    """
    Check an Airflow connection.

    :raises PayarcConfigError: a field is misconfigured; the text names it
    """
    extra = connection.extra_dejson
    if not isinstance(extra, dict):
        raise PayarcConfigError('connection extra: must be a JSON object such as {"environment": "test"}')
    for name in extra:
        if name not in EXTRAS:
            near = difflib.get_close_matches(str(name), EXTRAS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"choose from {', '.join(EXTRAS)}"
            shown = f'unknown name "{name}"' if _NAME.fullmatch(str(name)) else "an unknown name"
            raise PayarcConfigError(f"connection extra: {shown}; {hint}")
    environment = extra.get("environment") or "test"
    if environment not in HOSTS:
        raise PayarcConfigError('connection extra "environment": must be "test" or "live"')
    base_url = check_base_url(_host(connection) or HOSTS[environment])
    verify = _verify(extra.get("verify"))
    is_exposed = verify is False and environment == "live" and not is_loopback(urlsplit(base_url).hostname or "")
    return PayarcConnection(
        base_url=base_url,
        environment=_environment(base_url, environment),
        account=_account(extra.get("account")),
        timeout=_timeout(extra.get("timeout")),
        verify=verify,
        risk=_UNVERIFIED if is_exposed else None,
    )


def read_token(connection: Any) -> str:
    """
    The connection's access token.

    :raises PayarcConfigError: the password is empty or no token
    """
    return clean_token(connection.password)


def _host(connection: Any) -> str | None:
    host = (connection.host or "").strip()
    if not host:
        return None
    if "://" not in host:
        scheme = connection.schema if connection.schema in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    try:
        parts = urlsplit(host)
        has_port = parts.port is not None
    except ValueError:  # its text quotes the host or the port; `check_base_url` rejects them without doing so
        return host
    if connection.port and not has_port:
        host = f"{parts.scheme}://{parts.netloc}:{connection.port}{parts.path}"
    return host


def _environment(base_url: str, environment: str) -> str:
    for name, url in HOSTS.items():
        if urlsplit(base_url).hostname == urlsplit(url).hostname:
            if name != environment:
                raise PayarcConfigError(
                    f'connection extra "environment" is "{environment}", but the host is PayArc\'s "{name}" host: '
                    f'set environment to "{name}", or leave the host empty'
                )
            return environment
    return urlsplit(base_url).netloc


def _account(value: object) -> str | None:
    text = str(value).strip() if value is not None else ""
    if not text.isprintable():
        raise PayarcConfigError('connection extra "account": has control characters; enter the name again')
    return text or None


def _timeout(value: object) -> float:
    if value in (None, ""):
        return DEFAULT_TIMEOUT
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise PayarcConfigError('connection extra "timeout": must be a number of seconds above 0 and at most 600')
    return seconds


def _verify(value: object) -> bool | str:
    if value is None or value == "" or isinstance(value, bool):
        return True if value in (None, "") else bool(value)
    text = str(value).strip()
    return {"true": True, "false": False}.get(text.lower(), text)
