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

from payarc_provider.api.card_numbers import has_card_number
from payarc_provider.exceptions import PayarcConfigError

__all__ = [
    "FIELDS",
    "Rule",
    "Validation",
    "clean",
    "created_between",
    "path_id",
    "read_customer_id",
    "shown_value",
]

Kind = Literal["text", "email", "zip", "phone"]
Validation = Literal["guide", "payarc"]
"""Who checks lengths and characters: we, by PayArc's guide, before a request is spent; or PayArc alone."""
Fault = tuple[str, str]
"""What is wrong with a value, and what to do."""
_FIX = "fix it at the source"


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
_MAX_DIGITS = 60  # more than any field may have; writing out 1E+999999999 would take all memory
_TOO_LARGE = 10**_MAX_DIGITS
MAX_TEXT = 1000  # characters, more than normalization may reduce to 50; it takes minutes for some longer texts


def clean(
    record: Mapping[str, object], validation: Validation = "guide"
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Normalize a record's values for sending, without losing any data. Never raises.

    Values are trimmed and normalized to NFC, a phone is reduced to its digits, and integers and decimals become text.
    ``None``, empty and blank values are left out. Nothing is truncated: a value that is too long is an error.

    :param record: PayArc field → value; the order is kept
    :param validation: whether the lengths and characters of PayArc's guide are checked
    :return: the valid fields, and the errors by field. A record with any error must not be sent. Both are empty for a
        record without values.
    """
    fields: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    for name, value in record.items():
        ready = _READY.get(name)
        if ready is None:
            errors[name if isinstance(name, str) and _is_shown(name) else "record"] = [_unknown(name)]
        elif type(value) is str and ready(value) and not (len(value) > 12 and has_card_number(value)):
            fields[name] = value
        elif value is not None:
            text, faults = _clean_value(FIELDS[name], value, validation)
            if faults:
                errors[name] = [f"{fault}: {remedy}" for fault, remedy in faults]
            elif text:
                fields[name] = text
    return fields, errors


def _is_shown(name: str) -> bool:
    """Whether an unknown name can be shown: a longer one, or one that cannot be read, is hardly meant as a name."""
    return len(name) <= 40 and name.isprintable() and not has_card_number(name)


def _unknown(name: object) -> str:
    if not isinstance(name, str):
        return f"a field name has the type {type(name).__name__}: it must be text"
    if not _is_shown(name):
        return f"a field has an unknown name: choose from {', '.join(FIELDS)}"
    near = difflib.get_close_matches(name.lower(), FIELDS, n=1)
    if near:
        return f'unknown field "{name}": did you mean "{near[0]}"?'
    return f'unknown field "{name}": choose from {", ".join(FIELDS)}'


def _clean_value(rule: Rule, value: object, validation: Validation) -> tuple[str, list[Fault]]:
    text, fault = (str.strip(value), None) if isinstance(value, str) else _number_text(rule, value)
    fault = fault or _unsendable(rule, text, validation)
    if fault or not text:
        return "", [fault] if fault else []
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if rule.kind == "phone":
        digits = _PHONE_SEPARATORS.sub("", text)
        text = digits if validation == "guide" or digits.isdecimal() else text
    return text, list(_faults(rule, text)) if validation == "guide" else []


def _unsendable(rule: Rule, text: str, validation: Validation) -> Fault | None:
    """What is wrong with a text, whatever PayArc's rules are."""
    if len(text) > MAX_TEXT:
        most = f"{rule.max_length} {_unit(rule)}s" if validation == "guide" else f"{MAX_TEXT} characters"
        return f"must have at most {most} (it has {len(text)} characters)", _FIX
    if not text.isprintable() and (bad := _UNSENDABLE.search(text)):
        return f"contains a character that cannot be sent (it is U+{ord(bad.group()):04X})", "remove it at the source"
    if has_card_number(text):
        return "contains what looks like a card number, which must not be stored there", "remove it at the source"
    if rule.kind == "phone" and _PRINTED_FLOAT.fullmatch(text):
        return 'ends in ".0", like a float converted to text', "read the phone as text at the source"
    return None


def _faults(rule: Rule, text: str) -> Iterator[Fault]:
    """What breaks the rule in PayArc's guide."""
    invalid = next((char for char in text if not _is_allowed(rule.kind, char)), None)
    if invalid is not None:
        kind = _kind_of(invalid)
        # A value of one character would be shown completely, so it is not shown.
        what = kind if invalid.isspace() else f'the {kind} "{invalid}"' if len(text) > 1 else f"a {kind}"
        yield _ALLOWED[rule.kind] + (f" (it has {what})" if rule.kind != "email" else ""), _FIX
    if rule.kind == "phone" and invalid is not None:
        return  # its length means nothing
    length, unit = len(text), _unit(rule)
    if length < rule.min_length:
        yield f"must have at least {rule.min_length} {unit}s (it has {length})", _FIX
    if length > rule.max_length:
        yield f"must have at most {rule.max_length} {unit}s (it has {length})", _FIX


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


def _number_text(rule: Rule, value: object) -> tuple[str, Fault | None]:
    """A number from a database as exact text, or the reason why it is rejected."""
    digits_only = rule.kind in ("zip", "phone")
    if isinstance(value, float) and digits_only and value.is_integer():
        # pandas turns a column of whole numbers with a missing value into floats. Other floats are not a zip or phone.
        value = int(value)
    if isinstance(value, float) and math.isnan(value):
        return "", ("is NaN, which is pandas' missing value", "use None or leave the field out")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return "", (f"has the type {type(value).__name__}", "it must be text")
    # Converting a larger integer could take minutes.
    number = Decimal(value) if not isinstance(value, int) or abs(value) < _TOO_LARGE else Decimal("Infinity")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > _MAX_DIGITS or number.adjusted() > _MAX_DIGITS:
        return "", (f"is not a number of at most {_MAX_DIGITS} digits", _FIX)
    whole, _, fraction = format(number, "f").partition(".")
    if digits_only and (fraction.strip("0") or number < 0):
        return "", ("is negative or has decimals", "it must be text or a whole number")
    return f"{whole}.{fraction}" if fraction.strip("0") else whole, None


# ---- customer objects -----------------------------------------------------------------------------------------------
# PayArc uses two formats. The guide shows ``id``, and ``created_at`` as text without a time zone. Observed responses
# have ``customer_id``, and ``created_at`` in Unix seconds.

# The most seconds by which a time without a zone can differ from UTC: zones range from UTC-12 to UTC+14.
_UNKNOWN_ZONE = 14 * 3600.0

_PATH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_ID = 200  # characters of an id with its prefix and white space; longer text is not looked at
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


def read_customer_id(customer: Mapping[str, object]) -> str | None:
    """The customer's id without ``cus_``, from ``customer_id`` or else ``id``; None if neither has a usable one.

    An integer is not an id: PayArc's webhooks and its guide (as ``real_id``) show a number that its API does not take.
    """
    for name in ("customer_id", "id"):
        value = customer.get(name)
        if isinstance(value, str) and (found := _path_id(value)) is not None:
            return found
    return None


def _path_id(customer_id: str) -> str | None:
    """The id as PayArc's API takes it, without the prefix ``cus_`` that PayArc's SDKs show (observed), or None."""
    if len(customer_id) > _MAX_ID:
        return None
    found = customer_id.strip().removeprefix("cus_")
    return found if _PATH_ID.fullmatch(found) else None


def shown_value(value: object) -> str:
    """A field's value in a customer that PayArc returned, as it would be in a record; empty if there is none.

    Whatever cannot be a record's value, such as a list or a text of a megabyte, becomes text that equals no record's.
    """
    if value is None or value == "":
        return ""
    if isinstance(value, float | int):
        value = str(value) if abs(value) < _TOO_LARGE else _NO_VALUE
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return _NO_VALUE
    return unicodedata.normalize("NFC", value).strip()


_NO_VALUE = "\x00"


def path_id(customer_id: str) -> str:
    """The id without ``cus_``, checked to be safe in a URL's path.

    :raises PayarcConfigError: it is not a customer id
    """
    found = _path_id(customer_id) if isinstance(customer_id, str) else None
    if found is None:
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
