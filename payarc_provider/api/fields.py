"""The customer fields PayArc documents, and how a record is made ready to send.

Every rule here is PayArc's guide "Create Customer" (`FIELDS` is its table). Lengths and digit rules are enforced before
a request is spent. "Letters" and "alphanumeric" are not: the guide's own examples break them, real names hold
apostrophes, accents and worse, and what is a name is not for us to say. What these rules let through and PayArc does
not is PayArc's 422.

No text made here quotes a value: it names the limit, the actual length, at most one character, and the remedy.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from payarc_provider.exceptions import PayarcConfigError

__all__ = [
    "FIELDS",
    "UNKNOWN_ZONE",
    "Rule",
    "clean",
    "created_between",
    "customer_id",
    "path_id",
    "strip_prefix",
    "validate_names",
]

Kind = Literal["text", "email", "zip", "phone"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one field may hold: ``kind`` of characters, and from ``least`` to ``most`` of them after normalisation."""

    kind: Kind
    least: int
    most: int

    @property
    def text(self) -> str:
        """The rule in words, for people."""
        characters = {
            "text": "characters",
            "email": "characters without white space",
            "zip": "digits and hyphens",
            "phone": "digits; + - . ( ) / and spaces between them are left out",
        }[self.kind]
        return f"at most {self.most} {characters}" if self.least == 1 else f"{self.least} to {self.most} {characters}"


FIELDS: dict[str, Rule] = {
    "name": Rule("text", 3, 50),
    "email": Rule("email", 1, 40),
    "description": Rule("text", 5, 50),
    "send_email_address": Rule("email", 5, 40),
    "cc_email_address": Rule("email", 5, 40),
    "country": Rule("text", 2, 50),
    "address_1": Rule("text", 5, 50),
    "address_2": Rule("text", 5, 50),
    "city": Rule("text", 2, 50),
    "state": Rule("text", 2, 50),
    "zip": Rule("zip", 1, 10),
    "phone": Rule("phone", 2, 11),
}

_DIGITS = frozenset("0123456789")
_ALLOWED = {
    "email": "an email address has none",
    "zip": "only digits and hyphens are allowed",
    "phone": "only digits, and + - . ( ) / between them, are allowed",
}

# Most values of a clean source match their field's pattern and need nothing else: one match instead of a dozen steps.
_ASCII = {"text": r" -~", "email": r"!-~", "zip": r"0-9\-", "phone": r"0-9"}
_READY = {
    name: re.compile(rf"(?! )[{_ASCII[rule.kind]}]{{{rule.least},{rule.most}}}(?<! )").fullmatch
    for name, rule in FIELDS.items()
}

_UNSENDABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, line ends, halves of a character
_PHONE_SEPARATORS = re.compile(r"[\s+\-.()/]")
_PRINTED_FLOAT = re.compile(r"[0-9]+\.0")
_MOST_DIGITS = 60  # no field holds as many digits, and writing out 1E+999999999 would take all memory


def clean(record: Mapping[str, object]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Make a record ready to send, losing nothing.

    Values are trimmed and brought to Unicode's NFC; a phone is reduced to its digits; integers, and integral decimals,
    become text. ``None``, empty and blank values are left out. Nothing is ever cut off: what does not fit is an error.

    :param record: PayArc's field names and their values; order is kept
    :return: the fields that are in order, and the errors by field, one text per fault; a record with any error must
        not be sent. Both are empty for a record without values. Never raises.
    """
    fields: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    for name, value in record.items():
        ready = _READY.get(name)
        if ready is None:
            errors.update(validate_names([name]))
        elif type(value) is str and ready(value):
            fields[name] = value
        elif value is not None:
            text, faults = _clean_value(FIELDS[name], value)
            if faults:
                errors[name] = faults
            elif text:
                fields[name] = text
    return fields, errors


def validate_names(names: Iterable[object]) -> dict[str, list[str]]:
    """Check field names only, for example those a DAG maps columns to.

    :return: name → errors, as `clean` reports them; empty when PayArc has every field
    """
    return {str(name): [_unknown(name)] for name in names if name not in FIELDS}


def _unknown(name: object) -> str:
    if not isinstance(name, str):
        return f"a field name has the type {type(name).__name__}: give text"
    near = difflib.get_close_matches(name.lower(), FIELDS, n=1) if len(name) <= 40 else []
    if near:
        return f'unknown field "{name}": did you mean "{near[0]}"?'
    return f'unknown field "{name}": PayArc has {", ".join(FIELDS)}'


def _clean_value(rule: Rule, value: object) -> tuple[str, list[str]]:
    if isinstance(value, str):
        text = str.strip(value)
    else:
        text, fault = _number_text(rule, value)
        if fault:
            return "", [fault]
    if not text.isprintable() and (bad := _UNSENDABLE.search(text)):
        return "", [f"holds the character U+{ord(bad.group()):04X}, which cannot be sent: remove it at the source"]
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text:
        return "", []
    if rule.kind == "phone":
        if _PRINTED_FLOAT.fullmatch(text):
            return "", ['is a number printed with ".0", whose last digit is not the phone\'s: give it as text']
        text = _PHONE_SEPARATORS.sub("", text)
    return text, [f"{fault}: correct it at the source" for fault in _faults(rule, text)]


def _faults(rule: Rule, text: str) -> Iterable[str]:
    stranger = next((char for char in text if not _belongs(rule.kind, char)), None)
    if stranger is not None:
        # The only character of a value is the value, so it is not shown.
        shown = f' "{stranger}"' if len(text) > 1 and not stranger.isspace() else ""
        yield f"holds {_sort_of(stranger)}{shown}; {_ALLOWED[rule.kind]}"
    if rule.kind == "phone" and stranger is not None:
        return  # how many digits it has cannot be told
    length, unit = len(text), "digit" if rule.kind == "phone" else "character"
    has = f"has {length} {unit}{'' if length == 1 else 's'}"
    if length < rule.least:
        yield f"{has}, at least {rule.least} are needed"
    if length > rule.most:
        yield f"{has}, at most {rule.most} are allowed"


def _belongs(kind: Kind, char: str) -> bool:
    match kind:
        case "zip":
            return char in _DIGITS or char == "-"
        case "phone":
            return char in _DIGITS
        case "email":
            return not char.isspace()
        case "text":
            return True


def _sort_of(char: str) -> str:
    if char.isspace():
        return "white space"
    return "the letter" if char.isalpha() else "the digit" if char.isdigit() else "the sign"


def _number_text(rule: Rule, value: object) -> tuple[str, str | None]:
    """A number from a database as exact text, or why it is refused."""
    digits_only = rule.kind in ("zip", "phone")
    if isinstance(value, float) and digits_only and value.is_integer():
        # pandas turns a column of whole numbers with a gap in it into floats; any other float was never this field.
        value = int(value)
    if isinstance(value, float) and math.isnan(value):
        return "", "is NaN, pandas' mark for no value: give None or leave it out"
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return "", f"has the type {type(value).__name__}: give text"
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > _MOST_DIGITS or number.adjusted() > _MOST_DIGITS:
        return "", f"is not a number of at most {_MOST_DIGITS} digits: correct it at the source"
    whole, _, fraction = format(number, "f").partition(".")
    if digits_only and (fraction.strip("0") or number < 0):
        return "", "is not a whole number from 0 up: give text"
    return f"{whole}.{fraction}" if fraction.strip("0") else whole, None


# ---- customer objects -----------------------------------------------------------------------------------------------

#: Seconds either way by which a time without a zone may be off: zones reach from UTC-12 to UTC+14.
UNKNOWN_ZONE = 14 * 3600.0

_PATH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


def customer_id(customer: Mapping[str, object]) -> str | None:
    """The customer's id without ``cus_``: from ``customer_id``, else from ``id``; None where neither holds one."""
    for name in ("customer_id", "id"):
        value = customer.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            found = strip_prefix(str(value))
            if found:
                return found
    return None


def strip_prefix(customer_id: str) -> str:
    """The id as PayArc's API takes it: PayArc's SDKs show it with ``cus_`` before it (observed)."""
    return customer_id.strip().removeprefix("cus_")


def path_id(customer_id: str) -> str:
    """The id, fit to stand in a URL's path; ``cus_`` is stripped.

    :raises PayarcConfigError: it is not a customer id, so no request is made with it
    """
    found = strip_prefix(customer_id) if isinstance(customer_id, str) else ""
    if not _PATH_ID.fullmatch(found):
        raise PayarcConfigError(
            "not a PayArc customer id (1 to 64 letters, digits, - or _): give the customer_id that PayArc returned"
        )
    return found


def created_between(customer: Mapping[str, object]) -> tuple[float, float] | None:
    """Between which two Unix times, in seconds, the customer was created; None where ``created_at`` cannot be read.

    Numbers and texts with a zone are exact, and both ends are the same. Text without a zone may mean any: it counts as
    UTC, `UNKNOWN_ZONE` either way.
    """
    value = customer.get("created_at")
    if isinstance(value, str):
        text = value.strip()
        return _from_number(float(text)) if _UNIX_SECONDS.fullmatch(text) else _from_iso(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_number(value)
    return None


def _from_number(value: float) -> tuple[float, float] | None:
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return (seconds, seconds) if math.isfinite(seconds) else None


def _from_iso(text: str) -> tuple[float, float] | None:
    if ":" not in text:
        return None  # a day alone is no moment
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return _from_number(moment.timestamp())
        seconds = moment.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds - UNKNOWN_ZONE, seconds + UNKNOWN_ZONE
