"""The ledger's two tables.

``payarc_customers``: one row per (account, key). ``payarc_customers_facts``: what is true of the ledger itself, such as
its random id and which token users belong to which account. No column holds a record's value: only hashes, PayArc's
ids, field names, and refusals with the quoted values struck out.
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
    func,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator, TypeEngine

MAX_ACCOUNT = 190
MYSQL = ("mysql", "mariadb")
UTC = datetime.UTC


class UtcTime(TypeDecorator[datetime.datetime]):
    """A moment in UTC with microseconds; aware in Python, whatever the database does."""

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
    """The tables of one ledger, made for one database."""

    rows: Table
    facts: Table

    def ddl(self, dialect: Dialect) -> list[str]:
        """The statements that create the tables, for where tasks may not."""
        statements: list[Any] = [
            CreateTable(self.rows),
            *(CreateIndex(index) for index in self.rows.indexes),
            CreateTable(self.facts),
        ]
        return [str(statement.compile(dialect=dialect)).strip() for statement in statements]


def schema(name: str, schema_name: str | None, dialect: Dialect) -> Schema:
    """The tables called ``name`` and ``name_facts``.

    Keys and ids compare byte by byte: PostgreSQL's "C", SQLite's own, and on MySQL and MariaDB a binary collation
    that does not ignore trailing blanks.
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
        Column("reference", string(12)),
        Column("digest", string(32), nullable=False),
        Column("fields", string(255), nullable=False),
        Column("source", string(500), nullable=False),
        Column("owner", string(32)),
        Column("lease_until", UtcTime()),
        Column("settle", Float(53)),
        Column("sent_after", UtcTime()),
        Column("attempt", Integer, nullable=False),
        Column("error", Text),
        Column("matched_by", string(16)),
        Column("dag_id", string(250)),
        Column("run_id", string(250)),
        Column("task_id", string(250)),
        Column("claimed_at", UtcTime()),
        Column("settled_at", UtcTime()),
        UniqueConstraint("account", "customer_id", name=f"{name}_customer"[:60]),
        Index(f"{name}_pending"[:60], "account", "state", "lease_until"),
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


def database_now(connection: Connection) -> datetime.datetime:
    """The database's clock at this statement, in UTC; not at the transaction's start, which may be long ago."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        now = connection.execute(select(func.clock_timestamp())).scalar_one()
    elif dialect in MYSQL:
        now = connection.execute(text("SELECT UTC_TIMESTAMP(6)")).scalar_one()
    else:
        now = datetime.datetime.fromisoformat(
            connection.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        )
    moment: datetime.datetime = now
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
