"""A customer as the sandbox keeps it, and the two forms in which it is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from payarc_provider.sandbox.fields import RULES
from payarc_provider.sandbox.settings import SandboxSettings


@dataclass(slots=True)
class Customer:
    """One stored customer.

    :param number: 1, 2, 3… in the order of creation; shown as ``real_id``
    :param created_at: Unix seconds by PayArc's clock, whole ones
    :param request: the number of the POST that made it (see the log); None if it was seeded
    """

    number: int
    merchant: str
    customer_id: str
    fields: dict[str, str | None]
    created_at: int
    updated_at: int
    invoice_prefix: str
    request: int | None

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in lists: the greatest rank stands first."""
        return self.created_at, self.number

    def as_payarc(self, now: float, settings: SandboxSettings) -> dict[str, Any]:
        """The object under ``data`` in PayArc's answers."""
        values = {name: self.fields.get(name) for name in RULES}
        guide = settings.id_style == "guide"
        return {
            "object": "customer",
            **({"id": self.customer_id, "real_id": self.number} if guide else {"customer_id": self.customer_id}),
            **values,
            "payment_overdue": None,
            "source_id": None,
            "created_at": _shown(self.created_at, settings),
            "updated_at": _shown(self.updated_at, settings),
            "readable_created_at": _readable(now - self.created_at),
            "readable_updated_at": _readable(now - self.updated_at),
            "invoice_prefix": self.invoice_prefix,
            "card": {"data": []},
            "charge": {"data": []},
        }

    def as_raw(self) -> dict[str, Any]:
        """Everything that is stored, flat, in one form whatever the settings."""
        return {
            "customer_id": self.customer_id,
            "merchant": self.merchant,
            "real_id": self.number,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "created_by_request": self.request,
            **{name: self.fields.get(name) for name in RULES},
        }


def _shown(moment: int, settings: SandboxSettings) -> int | str:
    if settings.time_style == "unix":
        return moment
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


def _readable(age: float) -> str:
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if age >= seconds:
            return _ago(int(age // seconds), unit)
    return _ago(max(1, int(age)), "second")


def _ago(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count != 1 else ''} ago"
