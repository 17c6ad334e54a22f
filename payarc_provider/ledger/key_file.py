"""Keys from a file, for the commands that take many."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from payarc_provider.sync.keys import UnusableKey, key_text
from payarc_provider.sync.ledger.repair import LedgerUnchanged


def read_keys(name: str) -> Iterator[str]:
    """The keys in this file, one per line; ``-`` is stdin. Empty lines are skipped.

    :raises LedgerUnchanged: the file cannot be read, or a line is no usable key
    """
    try:
        with contextlib.nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _key(number, line.rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerUnchanged(f"--keys-from: the file cannot be read ({error.__class__.__name__})") from None


def _key(number: int, text: str) -> str:
    try:
        return key_text(text)
    except UnusableKey as problem:
        raise LedgerUnchanged(f"--keys-from: the key in line {number} {problem}") from None
