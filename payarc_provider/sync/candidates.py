"""Which listed customers may belong to the rows that are looked up, and which one does.

A customer belongs to a row if it carries the row's reference and no field contradicts that. If the row was sent
without a reference, or if PayArc may have damaged it, the fields decide: all that were sent have to be equal, and all
others empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from payarc_provider.api.fields import created_between, read_customer_id
from payarc_provider.sync.fingerprints import as_column, fingerprints, from_column, listed_fields, without_description
from payarc_provider.sync.ledger import Alterations, Row
from payarc_provider.sync.reference import find_reference

IDENTIFYING = ("email", "name", "phone")
"""The fields of which one has to agree if it is not certain which fields PayArc returns as they were sent."""

Prints = dict[str, str]
"""Field → fingerprint."""


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
    :param undecided: key → ids of the customers of which one may be the right one
    :param without_reference: those keys in ``found`` whose customers do not show the reference that was sent
    :param altered: whether a customer with a row's reference shows some of the row's values and others altered
    """

    found: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    undecided: dict[str, list[str]] = field(default_factory=dict)
    without_reference: set[str] = field(default_factory=set)
    altered: bool = False


@dataclass(slots=True)
class _Group:
    """Rows that were sent with the same values, and the customers that may be theirs.

    :param has_reference: whether the rows were sent with references; then the description is not compared
    :param prints: the fingerprints that are compared
    :param equal: the customers with exactly these values
    :param other_description: if the description is compared, those with exactly these values in the other fields
    :param similar: those with the same value in one of the `IDENTIFYING` fields, whatever the others show
    :param same_email: those of them with the same email
    """

    has_reference: bool
    prints: Prints
    rows: list[Row] = field(default_factory=list)
    equal: dict[str, Candidate] = field(default_factory=dict)
    other_description: dict[str, Candidate] = field(default_factory=dict)
    similar: dict[str, Candidate] = field(default_factory=dict)
    same_email: dict[str, Candidate] = field(default_factory=dict)

    def identifies(self, customer_id: str) -> bool:
        """Whether equal values suffice to recognize a customer whose description shows no reference or another one."""
        return "email" in self.prints or (not self.has_reference and customer_id in self.equal)


class Candidates:
    """Collects the listed customers that may belong to the rows, and decides which ones do.

    :param rows: the rows that are looked up
    :param secret: the key of the fingerprints, the ledger's id
    """

    def __init__(self, rows: Iterable[Row], secret: str) -> None:
        self._secret = secret
        self._rows = list(rows)
        self._by_reference: dict[str, dict[str, Prints]] = {row.reference: {} for row in self._rows if row.reference}
        self._groups: dict[tuple[bool, str], _Group] = {}
        self._by_others: dict[str, list[_Group]] = defaultdict(list)
        self._by_value: dict[tuple[bool, str, str], list[_Group]] = defaultdict(list)
        self._same_names: dict[tuple[bool, str], dict[str, Candidate]] = {}
        for row in self._rows:
            self._group(row).rows.append(row)

    def _group(self, row: Row) -> _Group:
        has_reference = row.reference is not None
        prints = _compared(from_column(row.fingerprints), has_reference)
        identity = (has_reference, as_column(prints))
        if identity not in self._groups:
            group = self._groups[identity] = _Group(has_reference, prints)
            self._same_names.setdefault((has_reference, _names(prints)), {})
            if not has_reference:
                self._by_others[without_description(prints)].append(group)
            for name in IDENTIFYING:
                if name in prints:
                    self._by_value[has_reference, name, prints[name]].append(group)
        return self._groups[identity]

    def add(self, customer: dict[str, Any]) -> None:
        """Keep the customer if it may belong to a row."""
        customer_id = read_customer_id(customer)
        if customer_id is None:
            return
        between = created_between(customer)
        prints = fingerprints(self._secret, listed_fields(customer))
        candidate = Candidate(customer_id, between[1] if between else None)
        code = find_reference(customer.get("description"))
        if code in self._by_reference:
            self._by_reference[code or ""][customer_id] = prints
        self._add_by_fields(candidate, prints, has_reference=False)
        if code is None:  # otherwise it belongs to another key or to another ledger
            self._add_by_fields(candidate, prints, has_reference=True)
            for group in self._by_others.get(without_description(prints), ()):
                group.other_description[customer_id] = candidate

    def _add_by_fields(self, candidate: Candidate, listed: Prints, *, has_reference: bool) -> None:
        prints = _compared(listed, has_reference)
        customer_id = candidate.customer_id
        if group := self._groups.get((has_reference, as_column(prints))):
            group.equal[customer_id] = candidate
        for name in IDENTIFYING:
            for group in self._by_value.get((has_reference, name, prints.get(name, "")), ()):
                group.similar[customer_id] = candidate
                if name == "email":
                    group.same_email[customer_id] = candidate
        same_names = self._same_names.get((has_reference, _names(prints)))
        if same_names is not None:
            same_names[customer_id] = candidate

    @property
    def shows_references(self) -> bool:
        """Whether a customer with a row's reference was listed."""
        return any(self._by_reference.values())

    def ids(self) -> set[str]:
        """The ids of all candidates."""
        groups = self._groups.values()
        found = {customer_id for listed in self._by_reference.values() for customer_id in listed}
        found.update(*self._same_names.values())
        for group in groups:
            found.update(group.equal, group.other_description, group.similar)
        return found

    def decide(self, ids_with_rows: set[str], alterations: Alterations, *, trusts_references: bool) -> Findings:
        """What the list shows about each row.

        :param ids_with_rows: candidates that already belong to a row, so that no other row can have them
        :param alterations: what PayArc is known to change. If it alters values, the lack of an equal customer proves
            nothing
        :param trusts_references: whether an intact reference was seen and no damaged one, so that the lack of a
            customer with a row's reference proves something
        """
        findings, taken = Findings(), set(ids_with_rows)
        contradicted = self._decide_by_reference(taken, alterations, findings)
        groups = sorted(self._groups.values(), key=lambda group: group.has_reference)
        for group in groups:
            self._match(group, taken, alterations, findings)
        findings.altered = any(self._is_altered(key, ids - taken) for key, ids in contradicted.items())
        alterations = alterations._replace(values=alterations.values or findings.altered)
        for group in groups:
            doubtful = self._doubtful(group, alterations, trusts_references=trusts_references)
            for row in _open(group, findings):
                ids = set(_created_since(row, doubtful)) | contradicted.get(row.key, set())
                if ids := ids - taken:
                    findings.undecided[row.key] = sorted(ids)
                else:
                    findings.absent.add(row.key)
        return findings

    def _decide_by_reference(
        self, taken: set[str], alterations: Alterations, findings: Findings
    ) -> dict[str, set[str]]:
        """Decide the rows whose references were listed, and add their customers to ``taken``.

        :return: key → ids of the customers that carry its reference, all of them with values that contradict the row
        """
        contradicted: dict[str, set[str]] = {}
        for row in self._rows:
            listed = self._by_reference.get(row.reference or "", {})
            carrying = {customer_id: one for customer_id, one in listed.items() if customer_id not in taken}
            prints = _compared(from_column(row.fingerprints), True)
            ids = sorted(key for key, one in carrying.items() if _agrees(prints, one, alterations))
            if len(ids) == 1:
                findings.found[row.key] = (ids[0], "reference")
                taken.add(ids[0])
            elif ids:
                findings.undecided[row.key] = ids
            elif carrying:
                contradicted[row.key] = set(carrying)
        return contradicted

    def _is_altered(self, key: str, customer_ids: set[str]) -> bool:
        """Whether one of these customers, which carry the row's reference, shows some of its values unchanged."""
        row = next(row for row in self._rows if row.key == key)
        listed, sent = self._by_reference[row.reference or ""], from_column(row.fingerprints)
        return any(_agrees(sent, listed[customer_id], Alterations(values=True)) for customer_id in customer_ids)

    def _match(self, group: _Group, taken: set[str], alterations: Alterations, findings: Findings) -> None:
        """Decide the rows for which equal customers were listed, and add the customers to ``taken``."""
        rows = _open(group, findings)
        damaged = group.other_description if alterations.descriptions else {}
        free = {customer_id: one for customer_id, one in (damaged | group.equal).items() if customer_id not in taken}
        newest_first = sorted(rows, key=lambda row: (_sent_after(row), row.key), reverse=True)
        for position, row in enumerate(newest_first):  # the row with the fewest possible customers first
            ids = _created_since(row, free.values())
            if ids and len(ids) <= len(rows) - position and group.identifies(ids[0]):
                # The values are equal, so any of the rows may get any of the customers.
                findings.found[row.key] = (ids[0], "fields")
                if group.has_reference:
                    findings.without_reference.add(row.key)
                taken.add(ids[0])
                del free[ids[0]]
            elif ids:
                findings.undecided[row.key] = ids

    def _doubtful(self, group: _Group, alterations: Alterations, *, trusts_references: bool) -> Collection[Candidate]:
        """The customers that may belong to these rows, although their values differ."""
        if group.has_reference and trusts_references:
            return ()
        if alterations.values:
            same_names = self._same_names[group.has_reference, _names(group.prints)]
            return (same_names | group.other_description | group.similar).values()
        if group.has_reference and not alterations.descriptions:
            return group.similar.values()  # nothing is known about what PayArc returns
        # PayArc may alter values that no response has shown yet. A name is no evidence: it may be a namesake's.
        return (group.other_description | group.same_email).values()


def _open(group: _Group, findings: Findings) -> list[Row]:
    return [row for row in group.rows if row.key not in findings.found and row.key not in findings.undecided]


def _compared(prints: Prints, has_reference: bool) -> Prints:
    return {name: one for name, one in prints.items() if name != "description"} if has_reference else prints


def _names(prints: Prints) -> str:
    return " ".join(sorted(prints))


def _agrees(sent: Prints, listed: Prints, alterations: Alterations) -> bool:
    """Whether the values of a customer that carries a row's reference agree with those that were sent for the row.

    A field that PayArc does not show contradicts nothing, and neither does one that was not sent.
    """
    shown = [name for name in sent if name in listed]
    equal = [name for name in shown if sent[name] == listed[name]]
    if alterations.values and shown:
        return any(name in IDENTIFYING for name in equal)
    return len(equal) == len(shown)


def _created_since(row: Row, candidates: Iterable[Candidate]) -> list[str]:
    """The ids of those that a request for this row can have created."""
    since = _sent_after(row)
    return sorted(one.customer_id for one in candidates if one.created_by is None or one.created_by >= since)


def _sent_after(row: Row) -> float:
    return row.sent_after.timestamp() if row.sent_after else 0.0
