"""What a record changes at its customer, told by fingerprints.

While a request may change a field, the row has the fingerprints of both values for it: ``email:0123…|4567…``. So it is
never taken for one of them before that is certain. If PayArc shows another value than it was sent, the row has both,
``email:0123…~4567…``, so that this is not taken for an edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from payarc_provider.sync.fingerprints import as_column, from_column

EMPTY = "-"
"""Stands for the fingerprint of a field without a value."""
_OR = "|"
_SHOWN = "~"

Prints = Mapping[str, str]
"""Field → fingerprint."""


@dataclass(frozen=True, slots=True)
class Change:
    """The fields in which a record differs from what PayArc has.

    :param changed: fields to send, which have a value in the record
    :param emptied: fields that PayArc has a value for and the record has none, although its source has the column
    """

    changed: frozenset[str]
    emptied: frozenset[str]


def change_of(row_prints: str, prints: Prints, columns: Iterable[str]) -> Change:
    """How a record differs from its row.

    :param row_prints: the row's column ``fingerprints``
    :param prints: the fingerprints of the record's values
    :param columns: the fields for which the record's source has a column
    """
    known = {name: one.partition(_SHOWN)[0] if _OR not in one else one for name, one in from_column(row_prints).items()}
    changed = frozenset(name for name, one in prints.items() if known.get(name, EMPTY) != one)
    emptied = frozenset(name for name in columns if name not in prints and known.get(name, EMPTY) != EMPTY)
    return Change(changed, emptied)


def is_certain(row_prints: str) -> bool:
    """Whether it is certain for each field which value PayArc has."""
    return _OR not in row_prints


def while_open(row_prints: str, sent: Prints) -> str:
    """The row's fingerprints while a request with these values may be applied.

    :param sent: field → fingerprint, `EMPTY` for a field to be cleared
    """
    known = from_column(row_prints)
    for name, one in sent.items():
        options = known.get(name, EMPTY).split(_OR)
        known[name] = _OR.join(dict.fromkeys([*options, one]))
    return as_column(known)


def afterwards(row_prints: str, sent: Prints) -> str:
    """The row's fingerprints after a request with these values was applied."""
    known = from_column(row_prints) | dict(sent)
    return as_column({name: one for name, one in known.items() if one != EMPTY})


def with_shown(prints: Prints, shown: Prints, altered: Iterable[str]) -> dict[str, str]:
    """Fingerprints of what was sent, and for these fields also of what PayArc shows instead."""
    return {**prints, **{name: f"{prints[name]}{_SHOWN}{shown.get(name, EMPTY)}" for name in altered}}


def allows(row_print: str | None, shown: str | None) -> bool:
    """Whether a field's value at PayArc is one of those that the row knows of.

    :param row_print: the field's fingerprints in the row; None if the row has none
    :param shown: the fingerprint of the value that PayArc shows; None for no value
    """
    return (shown or EMPTY) in (row_print or EMPTY).replace(_SHOWN, _OR).split(_OR)
