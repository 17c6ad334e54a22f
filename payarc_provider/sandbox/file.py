"""The state file: an SQLite database that outlives the sandbox, however it ends."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from payarc_provider.sandbox.customer import Customer

_TABLE = "CREATE TABLE IF NOT EXISTS customers (number INTEGER PRIMARY KEY, customer TEXT NOT NULL)"


class StateFile:
    """Customers on disk. Each call commits before it returns: a killed sandbox loses nothing it has answered.

    One sandbox at a time may use a file. The log, the counters, faults and settings are not kept.
    """

    def __init__(self, path: Path) -> None:
        # The server's thread and a test's both come here, one at a time: the state's lock sees to it.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # Without a sync to the disk for each commit, this outlives a kill of the process, though not of the machine.
        self._connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_TABLE}")

    def customers(self) -> Iterator[Customer]:
        """All of them, in the order of their numbers."""
        for (text,) in self._connection.execute("SELECT customer FROM customers ORDER BY number"):
            yield Customer(**json.loads(text))

    def save(self, customer: Customer) -> None:
        """Insert or replace one customer."""
        self._connection.execute(
            "INSERT OR REPLACE INTO customers VALUES (?, ?)", (customer.number, json.dumps(asdict(customer)))
        )

    def delete(self, customer: Customer) -> None:
        """Delete one customer."""
        self._connection.execute("DELETE FROM customers WHERE number = ?", (customer.number,))

    def clear(self) -> None:
        """Delete all customers."""
        self._connection.execute("DELETE FROM customers")

    def close(self) -> None:
        """Close the file; nothing can be saved afterwards."""
        self._connection.close()
