"""Rejected records as CSV, for spreadsheets: a line for each reason of each record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger.overview import RejectedRow
from payarc_provider.sync.ledger.rows import iso

COLUMNS = (
    "account",
    "key",
    "field",
    "reason",
    "customer_id",
    "rejected_since",
    "source",
    "dag_id",
    "run_id",
    "task_id",
)
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are wide forms of the first


def as_csv(rows: Iterable[RejectedRow]) -> Iterator[str]:
    """The lines of the file, the names of its columns first. Keys are shown as in logs."""
    yield _line(COLUMNS)
    for row in rows:
        for name, reasons in row.errors.items():
            for reason in reasons:
                record = (row.account, display_key(row.key), name, reason, row.customer_id or "", iso(row.since))
                yield _line((*record, row.source, row.dag_id or "", row.run_id or "", row.task_id or ""))


def _line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(text: str) -> str:
    """The text with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
