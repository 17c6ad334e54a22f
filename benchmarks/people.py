"""Made-up people, the same in every run, and a CRM table with them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FIELDS = ("name", "email", "description", "phone", "country")
_GIVEN = ["Ana", "Béatrice", "Dmitri", "Eoin", "Fatima", "Håkon", "Jean-Luc", "Kofi", "Mary-Ann", "Núria", "Zoë"]
_FAMILY = ["Álvarez", "Brontë", "D'Angelo", "García-López", "Ito", "Jönsson", "N'Diaye", "O'Brien", "Smith-Jones"]
_COMPANIES = ["Bagel bar", "Bike workshop", "Book café", "Donut shop", "Flower stall", "Print studio", "Tea house"]

CHANGED = ("email", "phone")
"""The fields that `write_generation` changes."""

Person = dict[str, Any]


def person(number: int, *, as_written: bool = False) -> Person:
    """Return the person with this number, counted from 1.

    :param as_written: with a phone number as people write it, which PayArc would reject
    """
    given, family = _GIVEN[number % len(_GIVEN)], _FAMILY[number // 3 % len(_FAMILY)]
    phone = f"202555{number % 10_000:04}"
    return {
        "id": number,
        "name": f"{given} {family}",
        "email": f"person.{number}@example.com",
        "description": _COMPANIES[number % len(_COMPANIES)],
        "phone": f"({phone[:3]}) {phone[3:6]}-{phone[6:]}" if as_written else phone,
        "country": "US",
    }


def people(count: int, *, as_written: bool = False) -> Iterator[Person]:
    """Yield this many people."""
    return (person(number, as_written=as_written) for number in range(1, count + 1))


def write_crm(path: Path, count: int, *, as_written: bool = False) -> Path:
    """Create a SQLite database with this many people in its table ``people``."""
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(
            f"CREATE TABLE people (id INTEGER PRIMARY KEY, {', '.join(f'{name} TEXT' for name in FIELDS)})"
        )
        rows = (tuple(row.values()) for row in people(count, as_written=as_written))
        database.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?, ?)", rows)
    return path


def mark(path: Path, word: str) -> list[str]:
    """Give every person an email address with a word of its own that occurs nowhere else; returns the words.

    :param word: what all of these words begin with
    """
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        marks = {number: f"mark{word}n{number:04}x" for (number,) in database.execute("SELECT id FROM people")}
        database.executemany(
            "UPDATE people SET email = ? WHERE id = ?",
            [(f"{one}@example.com", number) for number, one in marks.items()],
        )
    return list(marks.values())


def read_crm(path: str) -> list[Person]:
    """Return all rows, as a script would read them."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM people ORDER BY id")]


def change_some(path: Path, every: int) -> int:
    """Change the country of every n-th person; returns how many changed."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        return database.execute("UPDATE people SET country = 'CA' WHERE id % ? = 0", (every,)).rowcount


def write_generation(path: Path, generation: int, customer_ids: Mapping[int, str]) -> None:
    """Give every person another email address and phone number, and ``updated_at`` the number of the generation.

    :param customer_ids: id of a person → id of the customer, for tools that cannot find it out
    """
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        if "updated_at" not in {row[1] for row in database.execute("PRAGMA table_info(people)")}:
            database.execute("ALTER TABLE people ADD COLUMN updated_at INTEGER")
            database.execute("ALTER TABLE people ADD COLUMN customer_id TEXT")
        database.executemany(
            "UPDATE people SET email = ?, phone = ?, updated_at = ?, customer_id = ? WHERE id = ?",
            (
                (email_of(number, generation), f"{generation:03}555{number % 10_000:04}", generation, customer, number)
                for number, customer in customer_ids.items()
            ),
        )


def email_of(number: int, generation: int) -> str:
    """The email address of a person in a generation."""
    return f"person.{number}.{generation}@example.com"


def payload(row: Person) -> Person:
    """Return the data that is sent for a row."""
    return {name: row[name] for name in FIELDS}


def as_json(path: str) -> list[str]:
    """Return the data of all rows as JSON."""
    return [json.dumps(payload(row)) for row in read_crm(path)]
