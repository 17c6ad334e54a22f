"""Made-up people, the same every time, and a CRM table of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

_GIVEN = "Ana Béatrice Chloé Dmitri Eoin Fatima Håkon Jean-Luc Kofi Léa Mary-Ann Núria Priya Renée Søren Zoë".split()
_FAMILY = "Álvarez Brontë D'Angelo García-López Ito Jönsson Lefèvre N'Diaye O'Brien Park Smith-Jones".split()
_COMPANIES = ["Bagel bar", "Bike workshop", "Book café", "Donut shop", "Flower stall", "Print studio", "Tea house"]

Person = dict[str, object]


def person(number: int, *, changed: bool = False) -> Person:
    """One of them, numbered from 1.

    :param changed: as they are after they moved on to another phone
    """
    given, family = _GIVEN[number % len(_GIVEN)], _FAMILY[number // 3 % len(_FAMILY)]
    return {
        "id": number,
        "name": f"{given} {family}",
        "email": f"person.{number}@example.com",
        "description": _COMPANIES[number % len(_COMPANIES)],
        "phone": f"({202 + changed}) 555-{number % 10_000:04}",
        "country": "US",
    }


def people(count: int, first: int = 1) -> Iterator[Person]:
    """So many of them, one after the other."""
    return (person(number) for number in range(first, first + count))


def write_crm(path: Path, count: int) -> None:
    """A new SQLite database with them in its table ``people``."""
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    with database:
        columns = "id INTEGER PRIMARY KEY, name TEXT, email TEXT, description TEXT, phone TEXT, country TEXT"
        database.execute(f"CREATE TABLE people ({columns})")
        database.executemany(
            "INSERT INTO people VALUES (:id, :name, :email, :description, :phone, :country)", people(count)
        )
    database.close()


def change(path: Path, every: int) -> int:
    """Every so manieth of them changes; returns how many did."""
    database = sqlite3.connect(path)
    with database:
        cursor = database.execute("UPDATE people SET phone = replace(phone, '(202)', '(203)') WHERE id % ? = 0", (every,))
        changed = cursor.rowcount
    database.close()
    return changed
