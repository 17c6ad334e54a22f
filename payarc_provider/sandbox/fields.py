"""The fields of a customer, and the rules of PayArc's "Create Customer" guide by which their values are refused.

"Letters" is not enforced for names and places, since the guide's own examples contradict its narrowest reading. Two
checks go beyond the guide's table, so that there are records which only PayArc refuses: an ``email`` must look like
an address, and a ``country`` holds nothing but letters and white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from payarc_provider.sandbox.settings import SandboxSettings

_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_DIGITS = re.compile(r"[0-9]+")
_ZIP = re.compile(r"[0-9-]+")


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Least and greatest length in characters, and a shape with the words for what does not have it."""

    least: int
    most: int
    has_shape: Callable[[str], object] | None = None
    otherwise: str = ""


def _letter(mark: str) -> bool:
    return mark.isalpha() or mark.isspace() or unicodedata.category(mark).startswith("M")


def _only_letters(value: str) -> bool:
    return all(map(_letter, value))


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
"""Every field that a client can set, in the order of PayArc's answers."""


def known_fields(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that PayArc knows: numbers become text, and empty text null, as Laravel has it."""
    return {name: _plain(sent[name]) for name in RULES if name in sent}


def validation_errors(fields: Mapping[str, Any], settings: SandboxSettings, *, creating: bool) -> dict[str, list[str]]:
    """Field → what is wrong with it, in PayArc's words; empty where PayArc accepts the record."""
    errors = {name: texts for name, value in fields.items() if (texts := _wrong(name, value, settings))}
    if creating:
        for name in settings.required:
            if fields.get(name) is None:
                errors[name] = [f"The {_spoken(name)} field is required."]
    return errors


def altered(fields: Mapping[str, str | None], settings: SandboxSettings) -> dict[str, str | None]:
    """The fields as PayArc stores them."""
    if not settings.alter:
        return dict(fields)
    return {name: _alter(value, settings.alter.get(name)) for name, value in fields.items()}


def _wrong(name: str, value: Any, settings: SandboxSettings) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, str):
        return [f"The {_spoken(name)} must be a string."]
    rule, texts = RULES[name], []
    if rule.has_shape is not None and not rule.has_shape(value):
        texts.append(f"The {_spoken(name)} {rule.otherwise}")
    if len(value) < rule.least:
        texts.append(f"The {_spoken(name)} must be at least {rule.least} characters.")
    if len(value) > rule.most:
        texts.append(f"The {_spoken(name)} may not be greater than {rule.most} characters.")
    if value in settings.taken.get(name, ()):
        texts.append(f"The {_spoken(name)} has already been taken.")
    return texts


def _plain(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value == "" else value


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _alter(value: str | None, how: str | None) -> str | None:
    if value is None or how is None:
        return value
    if how == "drop":
        return None
    changed: str = getattr(value, "strip" if how == "trim" else how)()
    return changed
