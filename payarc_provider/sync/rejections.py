"""Groups rejected records by reason, in constant memory, for logs, messages, the command line and the page.

A reason is a field and what is wrong with it, such as ``name must have at least 3 characters``. Whatever differs from
record to record is left out: our own texts put it in parentheses that begin with ``(it ``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from payarc_provider.sync.keys import display_key
from payarc_provider.sync.records import Errors
from payarc_provider.sync.wording import counted

MAX_GROUPS = 50
MAX_KEYS = 5
_KEYS_WIDTH = 80  # characters of a line for keys, unless the first alone is longer
_OF_ONE_RECORD = re.compile(r" \(it .*?\)(?=$|[ .,:;])")
_REMEDY = ": fix it at the source"  # said once for all of them
_MAX_REASON = 500  # characters


@dataclass(slots=True)
class Group:
    """The records with one reason.

    :param keys: of the first `MAX_KEYS` of them that have a key, as they are; show them with `display_key`
    """

    reason: str
    records: int = 0
    keys: list[str] = field(default_factory=list, repr=False)

    def add(self, *keys: str | None, records: int = 1) -> None:
        """Add records with these keys, or of which some have these keys."""
        self.records += records
        self.keys += [key for key in keys[: MAX_KEYS - len(self.keys)] if key is not None]

    def __str__(self) -> str:
        """For a log: ``145 records: name must have at least 3 characters (keys c-00005, c-00012, …)``."""
        return f"{counted(self.records, 'record')}: {self.reason}{self._shown_keys()}"

    def _shown_keys(self) -> str:
        shown: list[str] = []
        for key in dict.fromkeys(display_key(key) for key in self.keys):
            if shown and len(", ".join([*shown, key])) > _KEYS_WIDTH:
                break
            shown.append(key)
        if not shown:
            return ""
        if shown == [display_key(key) for key in self.keys] and len(shown) == self.records:
            return f" ({'key' if len(shown) == 1 else 'keys'} {', '.join(shown)})"
        return f" (keys {', '.join(shown)}, …)"


class Rejections:
    """Counts rejected records by reason. A record with several reasons counts in the group of each.

    At most `MAX_GROUPS` groups are kept. ``records`` is how many records were added, and ``others`` how many of them
    have a reason that is in none of the groups.
    """

    def __init__(self) -> None:
        self.records = 0
        self.others = 0
        self._groups: dict[str, Group] = {}

    def add(self, errors: Errors, *keys: str | None, records: int = 1) -> None:
        """Add records that were rejected with the same errors.

        :param errors: field → what is wrong with it
        :param keys: of these records, or of some of them
        :param records: how many they are
        """
        self.records += records
        is_other = False
        for reason in dict.fromkeys(reasons(errors)):
            group = self._groups.get(reason)
            if group is None:
                if len(self._groups) == MAX_GROUPS:
                    is_other = True
                    continue
                group = self._groups[reason] = Group(reason)
            group.add(*keys, records=records)
        self.others += records * is_other

    def groups(self) -> list[Group]:
        """The groups, the largest first."""
        return sorted(self._groups.values(), key=lambda group: -group.records)


def reasons(errors: Errors) -> Iterator[str]:
    """The reasons of one record, each for one field."""
    for name, texts in errors.items():
        for text in texts:
            reason = _OF_ONE_RECORD.sub("", text[:_MAX_REASON]).removesuffix(_REMEDY)
            yield f"{name} {reason}" if reason[:1].islower() else f"{name}: {reason}"
