"""PayArc's customer fields and their rules, and the customer objects that PayArc returns.

`FIELDS` is the table in PayArc's guide "Create Customer". Lengths and digits are checked before a request is spent. The
rules "letters" and "alphanumeric" are not checked: the guide's own examples break them, and real names have apostrophes
and accents. PayArc returns 422 for values that pass these checks and break its rules.

No error text quotes a value. It states the limit, in parentheses the actual length or at most one character, and the
remedy.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from payarc_provider.exceptions import PayarcConfigError

__all__ = [
    "FIELDS",
    "Rule",
    "clean",
    "created_between",
    "path_id",
    "read_customer_id",
]

Kind = Literal["text", "email", "zip", "phone"]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one field: the ``kind`` of characters, and how many are allowed after normalization.

    :param characters: which characters PayArc's guide allows
    """

    kind: Kind
    min_length: int
    max_length: int
    characters: str

    @property
    def guide(self) -> str:
        """The rule as PayArc's guide has it, in words. PayArc alone checks the parts that `clean` does not."""
        length = f"up to {self.max_length}" if self.min_length == 1 else f"{self.min_length} to {self.max_length}"
        return f"{length} characters: {self.characters}"


FIELDS: dict[str, Rule] = {
    "name": Rule("text", 3, 50, "letters and white space"),
    "email": Rule("email", 1, 40, "letters, digits and special characters"),
    "description": Rule("text", 5, 50, "letters, digits and special characters"),
    "send_email_address": Rule("email", 5, 40, "an email address"),
    "cc_email_address": Rule("email", 5, 40, "an email address"),
    "country": Rule("text", 2, 50, "letters"),
    "address_1": Rule("text", 5, 50, "letters and digits"),
    "address_2": Rule("text", 5, 50, "letters and digits"),
    "city": Rule("text", 2, 50, "letters and white space"),
    "state": Rule("text", 2, 50, "letters and white space"),
    "zip": Rule("zip", 1, 10, "digits and hyphens"),
    "phone": Rule("phone", 2, 11, "digits"),
}

_DIGITS = frozenset("0123456789")
_ALLOWED = {
    "email": "must not contain white space",
    "zip": "must contain only digits and hyphens",
    "phone": "must contain only digits and + - . ( ) / between them",
}

# Most values already match their field's pattern. For these, one match replaces a dozen steps.
_ASCII = {"text": r" -~", "email": r"!-~", "zip": r"0-9\-", "phone": r"0-9"}
_READY = {
    name: re.compile(rf"(?! )[{_ASCII[rule.kind]}]{{{rule.min_length},{rule.max_length}}}(?<! )").fullmatch
    for name, rule in FIELDS.items()
}

_UNSENDABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, line separators, surrogates
_PHONE_SEPARATORS = re.compile(r"[\s+\-.()/]")
_PRINTED_FLOAT = re.compile(r"[0-9]+\.0")
_MAX_LENGTH = 1000  # characters, more than normalization may reduce to 50; it takes minutes for some longer texts
_MAX_DIGITS = 60  # more than any field may have; writing out 1E+999999999 would take all memory


def clean(record: Mapping[str, object]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Normalize a record's values for sending, without losing any data. Never raises.

    Values are trimmed and normalized to NFC, a phone is reduced to its digits, and integers and decimals become text.
    ``None``, empty and blank values are left out. Nothing is truncated: a value that is too long is an error.

    :param record: PayArc field → value; the order is kept
    :return: the valid fields, and the errors by field. A record with any error must not be sent. Both are empty for a
        record without values.
    """
    fields: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    for name, value in record.items():
        ready = _READY.get(name)
        if ready is None:
            errors[str(name)] = [_unknown(name)]
        elif type(value) is str and ready(value):
            fields[name] = value
        elif value is not None:
            text, faults = _clean_value(FIELDS[name], value)
            if faults:
                errors[name] = faults
            elif text:
                fields[name] = text
    return fields, errors


def _unknown(name: object) -> str:
    if not isinstance(name, str):
        return f"a field name has the type {type(name).__name__}: it must be text"
    near = difflib.get_close_matches(name.lower(), FIELDS, n=1) if len(name) <= 40 else []
    if near:
        return f'unknown field "{name}": did you mean "{near[0]}"?'
    return f'unknown field "{name}": choose from {", ".join(FIELDS)}'


def _clean_value(rule: Rule, value: object) -> tuple[str, list[str]]:
    if isinstance(value, str):
        text = str.strip(value)
    else:
        text, fault = _number_text(rule, value)
        if fault:
            return "", [fault]
    if not text.isprintable() and (bad := _UNSENDABLE.search(text)):
        return "", [
            f"contains a character that cannot be sent (it is U+{ord(bad.group()):04X}): remove it at the source"
        ]
    if len(text) > _MAX_LENGTH:
        longest = f"must have at most {rule.max_length} {_unit(rule)}s (it has {len(text)} characters)"
        return "", [f"{longest}: fix it at the source"]
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text:
        return "", []
    if rule.kind == "phone":
        if _PRINTED_FLOAT.fullmatch(text):
            return "", ['ends in ".0", like a float converted to text: read the phone as text at the source']
        text = _PHONE_SEPARATORS.sub("", text)
    return text, [f"{fault}: fix it at the source" for fault in _faults(rule, text)]


def _faults(rule: Rule, text: str) -> Iterator[str]:
    invalid = next((char for char in text if not _is_allowed(rule.kind, char)), None)
    if invalid is not None:
        kind = _kind_of(invalid)
        # A value of one character would be shown completely, so it is not shown.
        what = kind if invalid.isspace() else f'the {kind} "{invalid}"' if len(text) > 1 else f"a {kind}"
        yield _ALLOWED[rule.kind] + (f" (it has {what})" if rule.kind != "email" else "")
    if rule.kind == "phone" and invalid is not None:
        return  # its length means nothing
    length, unit = len(text), _unit(rule)
    if length < rule.min_length:
        yield f"must have at least {rule.min_length} {unit}s (it has {length})"
    if length > rule.max_length:
        yield f"must have at most {rule.max_length} {unit}s (it has {length})"


def _unit(rule: Rule) -> str:
    return "digit" if rule.kind == "phone" else "character"


def _is_allowed(kind: Kind, char: str) -> bool:
    match kind:
        case "zip":
            return char in _DIGITS or char == "-"
        case "phone":
            return char in _DIGITS
        case "email":
            return not char.isspace()
        case "text":
            return True


def _kind_of(char: str) -> str:
    if char.isspace():
        return "white space"
    return "letter" if char.isalpha() else "digit" if char.isdigit() else "character"


def _number_text(rule: Rule, value: object) -> tuple[str, str | None]:
    """A number from a database as exact text, or the reason why it is rejected."""
    digits_only = rule.kind in ("zip", "phone")
    if isinstance(value, float) and digits_only and value.is_integer():
        # pandas turns a column of whole numbers with a missing value into floats. Other floats are not a zip or phone.
        value = int(value)
    if isinstance(value, float) and math.isnan(value):
        return "", "is NaN, which is pandas' missing value: use None or leave the field out"
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return "", f"has the type {type(value).__name__}: it must be text"
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > _MAX_DIGITS or number.adjusted() > _MAX_DIGITS:
        return "", f"is not a number of at most {_MAX_DIGITS} digits: fix it at the source"
    whole, _, fraction = format(number, "f").partition(".")
    if digits_only and (fraction.strip("0") or number < 0):
        return "", "is negative or has decimals: it must be text or a whole number"
    return f"{whole}.{fraction}" if fraction.strip("0") else whole, None


# ---- customer objects -----------------------------------------------------------------------------------------------
# PayArc uses two formats. The guide shows ``id``, and ``created_at`` as text without a time zone. Observed responses
# have ``customer_id``, and ``created_at`` in Unix seconds.

# The most seconds by which a time without a zone can differ from UTC: zones range from UTC-12 to UTC+14.
_UNKNOWN_ZONE = 14 * 3600.0

_PATH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


def read_customer_id(customer: Mapping[str, object]) -> str | None:
    """The customer's id without ``cus_``, from ``customer_id`` or else ``id``; None if neither has one."""
    for name in ("customer_id", "id"):
        value = customer.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            found = _strip_prefix(str(value))
            if found:
                return found
    return None


def _strip_prefix(customer_id: str) -> str:
    """The id as PayArc's API takes it, without the prefix ``cus_`` that PayArc's SDKs show (observed)."""
    return customer_id.strip().removeprefix("cus_")


def path_id(customer_id: str) -> str:
    """The id without ``cus_``, checked to be safe in a URL's path.

    :raises PayarcConfigError: it is not a customer id
    """
    found = _strip_prefix(customer_id) if isinstance(customer_id, str) else ""
    if not _PATH_ID.fullmatch(found):
        raise PayarcConfigError(
            "not a PayArc customer id (1 to 64 letters, digits, - or _): use the customer_id that PayArc returned"
        )
    return found


def created_between(customer: Mapping[str, object]) -> tuple[float, float] | None:
    """The earliest and the latest time of the customer's creation, in Unix seconds; None if it cannot be read.

    Both are equal if ``created_at`` is a number or has a time zone. Without a zone, it is read as UTC plus or minus
    `_UNKNOWN_ZONE`.
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
        return None  # a date without a time
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return _from_number(moment.timestamp())
        seconds = moment.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds - _UNKNOWN_ZONE, seconds + _UNKNOWN_ZONE
