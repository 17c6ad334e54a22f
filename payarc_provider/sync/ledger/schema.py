"""The ledger's two tables.

``payarc_customers`` has one row per (account, key). ``payarc_customers_facts`` has facts about the ledger itself, such
as its random id and which token belongs to which account. Of a record's values, only its key and its version are
stored; of its fields, only hashes, names, and reasons for rejections without values.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

from payarc_provider.exceptions import PayarcConfigError
from payarc_provider.sync.ledger.database import MYSQL
from payarc_provider.sync.sources import MAX_SOURCE

MAX_ACCOUNT = 190
UTC = datetime.UTC


class UtcTime(TypeDecorator[datetime.datetime]):
    """A moment in UTC with microseconds, time zone aware in Python on every database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Schema:
    """The tables of one ledger, for one kind of database."""

    rows: Table
    facts: Table

    def exists(self, connection: Connection) -> bool:
        """Whether the database has both tables.

        :raises PayarcConfigError: when a table of that name lacks columns
        """
        inspector = inspect(connection)
        found = True
        for table in (self.rows, self.facts):
            if not inspector.has_table(table.name, schema=table.schema):
                found = False
                continue
            columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
            if missing := [column.name for column in table.columns if column.name not in columns]:
                names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                raise PayarcConfigError(
                    f"ledger_table: the table {table.fullname} exists but lacks {names}. Give another "
                    "name, or create the table with the statements that the `ddl` command prints"
                )
        return found

    def create(self, connection: Connection) -> None:
        """Create the tables that do not exist."""
        self.rows.metadata.create_all(connection, checkfirst=True)

    def ddl(self, dialect: Dialect) -> list[str]:
        """The SQL statements that create the tables."""
        statements: list[Any] = [
            CreateTable(self.rows),
            *(CreateIndex(index) for index in sorted(self.rows.indexes, key=lambda index: str(index.name))),
            CreateTable(self.facts),
        ]
        return [str(statement.compile(dialect=dialect)).strip() for statement in statements]


def schema(name: str, schema_name: str | None, dialect: Dialect) -> Schema:
    """The tables ``name`` and ``name_facts``.

    Keys and ids compare byte by byte: with PostgreSQL's "C" collation, SQLite's default, and on MySQL and MariaDB a
    binary collation that does not ignore trailing spaces.
    """
    collation = "C" if dialect.name == "postgresql" else None
    options: dict[str, Any] = {}
    if dialect.name in MYSQL:
        nopad = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        for prefix in MYSQL:
            options |= {f"{prefix}_charset": "utf8mb4", f"{prefix}_collate": nopad, f"{prefix}_engine": "InnoDB"}

    def string(length: int) -> String:
        return String(length, collation=collation)

    metadata = MetaData()
    rows = Table(
        name,
        metadata,
        Column("account", string(MAX_ACCOUNT), primary_key=True),
        Column("key", string(255), primary_key=True),
        Column("state", string(8), nullable=False),
        Column("customer_id", string(64)),
        Column("reference", string(16)),
        Column("digest", string(32), nullable=False),
        Column("fingerprints", string(2000), nullable=False),
        Column("version", string(64)),
        Column("wanted_version", string(64)),
        Column("source", string(MAX_SOURCE), nullable=False),
        Column("owner", string(32)),
        Column("claim", string(48)),
        Column("lease_until", UtcTime()),
        Column("lease", Float(53)),
        Column("settle", Float(53)),
        Column("sent_after", UtcTime()),
        Column("attempt", Integer, nullable=False),
        Column("inserted_at", UtcTime(), nullable=False),
        Column("error", Text),
        Column("matched_by", string(16)),
        Column("dag_id", string(250)),
        Column("run_id", string(250)),
        Column("task_id", string(250)),
        Column("claimed_at", UtcTime()),
        Column("resolved_at", UtcTime()),
        Column("updated_at", UtcTime()),
        Column("plan", string(250)),
        UniqueConstraint("account", "customer_id", name=f"{name}_customer"[:60]),
        Index(f"{name}_pending"[:60], "account", "state", "lease_until"),
        *_rejected_index(f"{name}_rejected"[:60], dialect),
        schema=schema_name,
        **options,
    )
    facts = Table(
        f"{name}_facts",
        metadata,
        Column("name", string(500), primary_key=True),
        Column("value", Text, nullable=False),
        schema=schema_name,
        **options,
    )
    return Schema(rows, facts)


def _rejected_index(name: str, dialect: Dialect) -> list[Index]:
    """The index of the rows with an error, from which the page and the command list them.

    MySQL and MariaDB have no partial indexes, and there every row would pay for it.
    """
    if dialect.name in MYSQL:
        return []
    has_error = text("error IS NOT NULL")
    return [Index(name, "account", "resolved_at", postgresql_where=has_error, sqlite_where=has_error)]


def check_account(account: str) -> str:
    """Return the account if the ledger can store it.

    :raises PayarcConfigError: when it is too long
    """
    if len(account) > MAX_ACCOUNT:
        raise PayarcConfigError(f"account: has {len(account)} characters, at most {MAX_ACCOUNT} are allowed")
    return account
