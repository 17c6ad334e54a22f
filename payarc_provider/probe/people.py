"""The people that the probe creates: obviously fake, and recognizable as this probe's own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from string import ascii_lowercase

CLEARED = ("address_2", "phone")
"""The fields that the probe tries to clear."""


class FakePeople:
    """Fake people with one random word, the marker, in every name, email and description.

    Names have letters only, descriptions are as long as they may be, all values keep to PayArc's guide, and emails are
    at ``example.com``, which receives none.
    """

    def __init__(self) -> None:
        self.marker = "".join(secrets.choice(ascii_lowercase) for _ in range(8))

    def person(self, tag: str, name: str = "Probe Testperson") -> dict[str, str]:
        """The fields of a new person.

        :param tag: makes the email unique
        :param name: what the name begins with
        """
        return {
            "name": f"{name} {self.marker}",
            "email": f"probe-{self.marker}-{tag}@example.com",
            "description": f"Fake customer from a test, please delete #{self.marker}",
        }

    def full_person(self, tag: str) -> dict[str, str]:
        """The fields of a new person with a value in every field."""
        return self.person(tag) | {
            "send_email_address": f"probe-{self.marker}@example.com",
            "cc_email_address": f"probe-{self.marker}@example.com",
            "country": "US",
            "address_1": "1 Test Street",
            "address_2": "Test Floor",
            "city": "Testville",
            "state": "NY",
            "zip": "00000",
            "phone": "2025550100",
        }

    def is_ours(self, customer: Mapping[str, object]) -> bool:
        """Whether a customer of PayArc's certainly is one that this probe has created."""
        shown = (str(customer.get(name) or "") for name in ("name", "email", "description"))
        return any(self.marker in text.casefold() for text in shown)
