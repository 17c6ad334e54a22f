"""A CRM with 200 made-up people, the same in every run."""

from __future__ import annotations

import random
import sqlite3
import unicodedata
from pathlib import Path

GIVEN = "Ana Béatrice Chloé Dmitri Eoin Fatima Gül Håkon Inés Jean-Luc Kofi Léa Mary-Ann Núria Priya Renée Søren Zoë"
FAMILY = "Álvarez Brontë D'Angelo Erdoğan García-López Ito Jönsson Lefèvre N'Diaye O'Brien Park Smith-Jones Žižka"
COMPANIES = ["Bagel bar", "Bike workshop", "Book café", "Donut shop", "Flower stall", "Print studio", "Tea house"]

# Mistakes that only PayArc detects: person → column, the right text, the text in the CRM.
MISTAKES = {42: ("email", "@", "."), 101: ("email", ".com", ""), 160: ("country", "US", "U.S.")}

MOVED, NEW_PHONE = 7, "(202) 555-0199"
INSERT = "INSERT INTO people VALUES (:id, :full_name, :email, :company, :phone, :country)"


def people(count: int = 200) -> list[dict[str, object]]:
    """Return the rows of the table."""
    chance = random.Random(2026)
    rows: list[dict[str, object]] = []
    for number in range(1, count + 1):
        given, family = chance.choice(GIVEN.split()), chance.choice(FAMILY.split())
        row: dict[str, object] = {
            "id": number,
            "full_name": f"{given} {family}",
            "email": f"{_plain(given)}.{_plain(family)}.{number}@example.com",
            "company": chance.choice(COMPANIES),
            "phone": f"(202) 555-01{chance.randrange(100):02}",
            "country": "US",
        }
        if number in MISTAKES:
            column, right, wrong = MISTAKES[number]
            row[column] = str(row[column]).replace(right, wrong)
        rows.append(row)
    return rows


def write_crm(path: Path) -> int:
    """Write the table ``people`` to a new SQLite database and return the number of its rows."""
    rows = people()
    database = sqlite3.connect(path)
    with database:
        database.execute(
            "CREATE TABLE people "
            "(id INTEGER PRIMARY KEY, full_name TEXT, email TEXT, company TEXT, phone TEXT, country TEXT)"
        )
        database.executemany(INSERT, rows)
    database.close()
    return len(rows)


def change_overnight(path: Path) -> dict[str, object]:
    """Give one person a new phone number, add a new person, and return the first one's row."""
    moved = people()[MOVED - 1] | {"phone": NEW_PHONE}
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE people SET phone = :phone WHERE id = :id", moved)
        database.execute(INSERT, people(201)[-1])
    database.close()
    return moved


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower().replace("ø", "o"))
    return "".join(letter for letter in letters if letter.isascii() and letter.isalpha())
