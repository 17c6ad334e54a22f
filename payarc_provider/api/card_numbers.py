"""Card numbers, which have no place in a key or a customer's field: both are stored and shown.

A number counts as a card number if all three hold: it begins with the digits of a known card network, it has the length
of that network's cards, and its check digit is right. Of arbitrary numbers with 16 digits, about one in forty does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["has_card_number", "is_card_number", "key_has_card_number"]

_DIGITS = 13  # the fewest that a card number has
_MOST_DIGITS = 19
# Network → the beginning of its numbers, and the lengths that they have.
_NETWORKS = {
    "American Express": (r"3[47]", (15,)),
    "Diners Club": (r"30[0-5]|3095|3[689]", (14, 16)),
    "Discover": (r"6011|64[4-9]|65", (16, 19)),
    "JCB": (r"35(?:2[89]|[3-8][0-9])", (16, 19)),
    "Maestro": (r"5018|5020|5038|5893|6304|6759|676[1-3]|6799", tuple(range(13, 20))),
    "Mastercard": (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),
    "Mir": (r"220[0-4]", (16, 17, 18, 19)),
    "UnionPay": (r"62|81", (16, 17, 18, 19)),
    "Visa": (r"4", (13, 16, 19)),
}
_BY_NETWORK = [(re.compile(begins), lengths) for begins, lengths in _NETWORKS.values()]
_SEPARATORS = r"[\s.,_/\-\u00ad\u200b-\u200f\u2010-\u2015\u2060\u2212\ufeff]{0,3}"  # as printed, or invisible
_MANY_DIGITS = re.compile(rf"\d(?:{_SEPARATORS}\d){{{_DIGITS - 1},}}")
_has_digits = re.compile(r"[0-9]\D{0,3}[0-9]\D{0,3}[0-9]\D{0,3}[0-9]", re.ASCII).search  # fast; most texts have fewer
_GROUP = re.compile(r"\d+")
_UUID = re.compile(r"(?i)\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def has_card_number(text: str) -> bool:
    """Whether the text contains a card number, with or without spaces, hyphens or the like between its digits."""
    if text.isascii() and not _has_digits(text):
        return False
    return any(is_card_number(digits) for digits, _ in _numbers(text))


def key_has_card_number(text: str) -> bool:
    """Whether a key contains a card number.

    Unlike in a field, a number is no card number if a letter touches it, as in ``c4111111111111111``, or if it has 13
    digits: many systems number their customers so, and no such cards have been issued for decades.
    """
    if text.isascii() and not _has_digits(text):
        return False
    return any(
        len(digits) > _DIGITS and not touches_letter and is_card_number(digits)
        for digits, touches_letter in _numbers(text)
    )


def _numbers(text: str) -> Iterator[tuple[str, bool]]:
    """What may be a card number: the digits of one or several neighboring groups, and whether a letter touches them."""
    if _MANY_DIGITS.search(text) is None:
        return
    text = _UUID.sub("-", text)
    for found in _MANY_DIGITS.finditer(text):
        groups = list(_GROUP.finditer(text, found.start(), found.end()))
        for first, group in enumerate(groups):
            digits = ""
            after_letter = text[group.start() - 1 : group.start()].isalpha()
            for last in groups[first:]:
                digits += last.group()
                if len(digits) > _MOST_DIGITS:
                    break
                yield digits, after_letter or text[last.end() : last.end() + 1].isalpha()


def is_card_number(digits: str) -> bool:
    """Whether these digits are a card number."""
    if not _DIGITS <= len(digits) <= _MOST_DIGITS:
        return False
    values = [int(digit) for digit in digits]
    plain = digits if digits.isascii() else "".join(map(str, values))
    if not any(len(plain) in lengths and begins.match(plain) for begins, lengths in _BY_NETWORK):
        return False
    values.reverse()
    return sum(values[::2] + [2 * digit - 9 * (digit > 4) for digit in values[1::2]]) % 10 == 0
