"""Which keys a run has read, so that no two different records of one run have the same key."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

_63_BITS = 2**63 - 1
_CACHE = "PRAGMA cache_size = -32768"  # kibibytes; the rest goes to a temporary file


class SeenKeys:
    """The keys read so far, each with the digest of its first record.

    They are in a private temporary file that vanishes with the process, so memory stays constant. Keys and digests are
    stored as hashes of 63 bits, which are random in each process: among a million keys, the chance that two seem to be
    the same is below one in ten million.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(_CACHE)
        self._database.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY, digest INTEGER, noted INTEGER)")
        self._database.execute("BEGIN")
        self._noted = 0

    def note(self, digests: Mapping[str, str]) -> dict[str, int]:
        """Note these keys and the digests of their records.

        :return: for the keys that an earlier call has noted: key → `short_hash` of the digest of the first record
        """
        self._noted += 1
        before = self._database.total_changes
        rows = sorted((short_hash(key), short_hash(digest), self._noted) for key, digest in digests.items())
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", rows)
        if self._database.total_changes - before == len(rows):
            return {}
        found = {key: self._find(key) for key in digests}
        return {key: first for key, (first, noted) in found.items() if noted < self._noted}

    def _find(self, key: str) -> tuple[int, int]:
        query = "SELECT digest, noted FROM seen WHERE key = ?"
        found: tuple[int, int] = self._database.execute(query, (short_hash(key),)).fetchone()
        return found


def short_hash(text: str) -> int:
    """63 bits of a hash, the same only within this process."""
    return hash(text) & _63_BITS
