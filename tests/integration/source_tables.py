"""Tables to read as a source of records, in every kind of database."""

from __future__ import annotations

from payarc_provider.sync.database_source import DatabaseSource

SOURCE_KINDS = ("sqlite", "postgresql", "mariadb", "duckdb")
"""The kinds of database in which a source is tested."""


def mark(database, name=None):
    """A placeholder in the style of the database's driver."""
    if database.kind in ("sqlite", "duckdb"):
        return f"{':' if database.kind == 'sqlite' else '$'}{name}" if name else "?"
    return f"%({name})s" if name else "%s"


class Table:
    """A table with any names, created and filled with the database's own quoting."""

    def __init__(self, database, name, columns):
        self.database = database
        self.sql_name = database.quoted(name)
        self.columns = [column.split(" ", 1) if isinstance(column, str) else column for column in columns]
        declared = ", ".join(f"{database.quoted(column)} {kind}" for column, kind in self.columns)
        database.execute(f"CREATE TABLE {self.sql_name} ({declared})")

    def fill(self, rows):
        marks = ", ".join([f"({', '.join([mark(self.database)] * len(self.columns))})"] * len(rows))
        name = self.sql_name if mark(self.database) == "?" else self.sql_name.replace("%", "%%")
        self.database.execute(f"INSERT INTO {name} VALUES {marks}", [value for row in rows for value in row])
        return self


def source(database, key="id", columns=None, **options):
    key = [key] if isinstance(key, str) else key
    options.setdefault("page_size", 3)
    return DatabaseSource(database.shared, key, columns, name="the source", **options)


def read(database, key="id", columns=None, **options):
    return [row for page in source(database, key, columns, **options).pages() for row in page]


def ids(rows, column="id"):
    return [row[column] for row in rows]


PEOPLE = [(number, f"Person {number}") for number in (7, 3, 1, 9, 4, 8, 2, 6, 5, 10)]
