"""Matches listed customers to open rows: by reference if the row has one, else by equal fields."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from payarc_provider.api.fields import created_between, read_customer_id
from payarc_provider.sync.ledger import Row
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.reference import find_reference, without_reference


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed customer that may belong to a row.

    :param created_by: the latest possible time of its creation in Unix seconds; None if the list does not show it
    """

    customer_id: str
    created_by: float | None


@dataclass(slots=True)
class Findings:
    """What a look-up has found out about each row's key.

    :param found: key → (customer id, "reference" or "fields")
    :param absent: keys for which no customer exists
    :param undecided: key → ids of several customers, any of which may be the right one
    """

    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    undecided: dict[str, list[str]] = field(default_factory=dict)


class Candidates:
    """Collects the listed customers that may belong to the rows, and decides which ones do.

    ``alters_values``: whether PayArc is known to alter values. If so, the lack of an equal customer proves nothing.

    :param rows: the rows that are looked up
    :param reader: computes the digest of a listed customer
    """

    def __init__(self, rows: Iterable[Row], reader: RecordReader, *, alters_values: bool = False) -> None:
        self.alters_values = alters_values
        self._rows = list(rows)
        self._reader = reader
        self._references = {row.reference for row in self._rows if row.reference}
        self._field_sets = {row.fields for row in self._rows if not row.reference}
        self._digests = {row.digest for row in self._rows if not row.reference}
        self._by_reference: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self._by_digest: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self._same_fields: dict[str, dict[str, Candidate]] = defaultdict(dict)  # with other values in the same fields

    def add(self, customer: dict[str, Any]) -> None:
        """Keep the customer if it may belong to a row."""
        customer_id = read_customer_id(customer)
        if customer_id is None:
            return
        code = find_reference(customer.get("description"))
        between = created_between(customer)
        candidate = Candidate(customer_id, between[1] if between else None)
        if code in self._references:
            self._by_reference[code or ""][customer_id] = candidate
            self.alters_values = self.alters_values or not self._is_as_sent(customer, code or "")
        for names in self._field_sets:
            digest = self._reader.digest_of_customer(customer, names)
            if digest in self._digests:
                self._by_digest[digest][customer_id] = candidate
            elif digest is not None:
                self._same_fields[names][customer_id] = candidate

    def _is_as_sent(self, customer: dict[str, Any], code: str) -> bool:
        """Whether the customer with this reference has the values that were sent."""
        plain = {**customer, "description": without_reference(customer["description"])}
        rows = [row for row in self._rows if row.reference == code]
        return all(self._reader.digest_of_customer(plain, row.fields) == row.digest for row in rows)

    def ids(self) -> set[str]:
        """The ids of all candidates."""
        groups = (self._by_reference, self._by_digest, self._same_fields)
        return {customer_id for group in groups for candidates in group.values() for customer_id in candidates}

    def decide(self, ids_with_rows: set[str]) -> Findings:
        """What the list shows about each row.

        :param ids_with_rows: candidates that already belong to a row, so that no other row can have them
        """
        findings = Findings()
        by_digest: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows:
            if row.reference:
                self._decide_by_reference(row, ids_with_rows, findings)
            else:
                by_digest[row.digest].append(row)
        for digest, rows in by_digest.items():
            free = {
                customer_id: candidate
                for customer_id, candidate in self._by_digest[digest].items()
                if customer_id not in ids_with_rows
            }
            altered = self._same_fields[rows[0].fields].keys() - ids_with_rows if self.alters_values else set()
            self._decide_by_fields(rows, free, sorted(altered), findings)
        return findings

    def _decide_by_reference(self, row: Row, ids_with_rows: set[str], findings: Findings) -> None:
        ids = sorted(self._by_reference[row.reference or ""].keys() - ids_with_rows)
        if len(ids) == 1:
            findings.found[row.key] = (ids[0], "reference")
        elif ids:
            findings.undecided[row.key] = ids
        else:
            findings.absent.add(row.key)

    def _decide_by_fields(
        self, rows: list[Row], equal: dict[str, Candidate], altered: list[str], findings: Findings
    ) -> None:
        """Decide rows without references whose records were equal.

        :param equal: the customers with exactly these values
        :param altered: if PayArc alters values, the customers that may have been created with these values
        """
        free = dict(equal)
        newest_first = sorted(rows, key=lambda row: (_sent_after(row), row.key), reverse=True)
        for position, row in enumerate(newest_first):  # the row with the fewest possible customers first
            since = _sent_after(row)
            ids = sorted(
                candidate.customer_id
                for candidate in free.values()
                if candidate.created_by is None or candidate.created_by >= since
            )
            if not ids and altered:
                findings.undecided[row.key] = sorted(altered)
            elif not ids:
                findings.absent.add(row.key)
            elif len(ids) <= len(rows) - position:  # the records are equal, so any of them may get any of the customers
                findings.found[row.key] = (ids[0], "fields")
                del free[ids[0]]
            else:
                findings.undecided[row.key] = ids


def _sent_after(row: Row) -> float:
    return row.sent_after.timestamp() if row.sent_after else 0.0
