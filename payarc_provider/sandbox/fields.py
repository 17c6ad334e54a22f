"""The fields of a customer, and the rules of PayArc's "Create Customer" guide for their values.

The guide says "letters" for names and places, but its own examples contradict that. The sandbox enforces it for names
only, and only if the setting ``names`` says so. Two checks go beyond the guide, so that there are records that only
PayArc rejects: an ``email`` must look like an address, and a ``country`` may contain only letters and white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from payarc_provider.sandbox.settings import CUT_LENGTH, SandboxSettings

_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_DIGITS = re.compile(r"[0-9]+")
_ZIP = re.compile(r"[0-9-]+")


@dataclass(frozen=True, slots=True)
class FieldRule:
    """The length in characters and the format of a field, with PayArc's message for a wrong format."""

    min_length: int
    max_length: int
    has_format: Callable[[str], object] | None = None
    message: str = ""


def _only_letters(value: str) -> bool:
    return all(char.isalpha() or char.isspace() or unicodedata.category(char).startswith("M") for char in value)


RULES: dict[str, FieldRule] = {
    "name": FieldRule(3, 50),
    "email": FieldRule(0, 40, _ADDRESS.fullmatch, "must be a valid email address."),
    "description": FieldRule(5, 50),
    "send_email_address": FieldRule(5, 40),
    "cc_email_address": FieldRule(5, 40),
    "address_1": FieldRule(5, 50),
    "address_2": FieldRule(5, 50),
    "city": FieldRule(2, 50),
    "state": FieldRule(2, 50),
    "zip": FieldRule(0, 10, _ZIP.fullmatch, "format is invalid."),
    "phone": FieldRule(2, 11, _DIGITS.fullmatch, "must be a number."),
    "country": FieldRule(2, 50, _only_letters, "may only contain letters."),
}
"""Every field that a client can set, in the order of PayArc's responses."""


def known_fields(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that PayArc knows. As in Laravel, integers become text and empty text becomes null."""
    return {name: _normalized(sent[name]) for name in RULES if name in sent}


def validation_errors(fields: Mapping[str, Any], settings: SandboxSettings, *, creating: bool) -> dict[str, list[str]]:
    """Field → PayArc's messages about its value; empty if PayArc accepts the record.

    :param creating: a POST, which must have the required fields
    """
    errors = {name: messages for name, value in fields.items() if (messages := _messages(name, value, settings))}
    if creating:
        for name in settings.required:
            if fields.get(name) is None:
                errors[name] = [f"The {_label(name)} field is required."]
    return errors


def as_stored(fields: Mapping[str, str | None], settings: SandboxSettings) -> dict[str, str | None]:
    """The fields as PayArc stores them, which may differ from what was sent (``alter``)."""
    if not settings.alter:
        return dict(fields)
    return {name: _alter(value, settings.alter.get(name)) for name, value in fields.items()}


def _messages(name: str, value: Any, settings: SandboxSettings) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, str):
        return [f"The {_label(name)} must be a string."]
    rule, messages = RULES[name], []
    if rule.has_format is not None and not rule.has_format(value):
        messages.append(f"The {_label(name)} {rule.message}")
    if name == "name" and settings.names == "letters" and not _only_letters(value):
        messages.append("The name format is invalid.")
    if len(value) < rule.min_length:
        messages.append(f"The {_label(name)} must be at least {rule.min_length} characters.")
    if len(value) > rule.max_length:
        messages.append(f"The {_label(name)} may not be greater than {rule.max_length} characters.")
    if value in settings.taken.get(name, ()):
        messages.append(f"The {_label(name)} has already been taken.")
    return messages


def _normalized(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value == "" else value


def _label(name: str) -> str:
    return name.replace("_", " ")


def _alter(value: str | None, how: str | None) -> str | None:
    if value is None or how is None:
        return value
    return _ALTERATIONS[how](value) or None


_ALTERATIONS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "trim": str.strip,
    "drop": lambda value: "",
    "cut": lambda value: value[:CUT_LENGTH],
    "no_hash": lambda value: value.replace("#", ""),
    "alphanumeric": lambda value: "".join(char for char in value if char.isalnum()),
    "append": lambda value: f"{value} (web)",
}
