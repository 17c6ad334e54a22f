"""Formats what the commands print: text of at most 100 columns (longer keys are not cut), or JSON. Times are in UTC."""

from __future__ import annotations

import dataclasses
import datetime
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import Hold, Row, State
from payarc_provider.sync.ledger.overview import AccountCounts, PendingRow, RejectedRow
from payarc_provider.sync.ledger.rebuild import Rebuilt, Verdict
from payarc_provider.sync.ledger.repair import Renamed
from payarc_provider.sync.ledger.rows import iso
from payarc_provider.sync.rejections import Rejections

WIDTH = 100
HOLDS = {
    Hold.HELD: "a run is working on them",
    Hold.OPEN: "their run has ended, and what it sent may have arrived: the next run takes them over",
    Hold.UNSENT: "PayArc has no customer for them: the next run sends them",
}
_VERDICTS = {
    Verdict.INSERTED: "rows that were missing",
    Verdict.RESOLVED: "rows that were rejected or unsent, and now have their customer",
    Verdict.AGREED: "rows that were already correct",
    Verdict.PENDING: "rows that the next run looks up",
    Verdict.UNDECIDED: "rows with several customers, pending until you resolve them",
    Verdict.DISAGREED: "rows with another customer, which were not changed",
    Verdict.ERASED: "erased keys, which get no row",
    Verdict.ABSENT: "keys without a customer and without a row: a run creates them",
}


def as_json(value: Any) -> str:
    """The value as JSON. Keys that look like personal data are masked."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def status(
    ledger_id: str, tables: Sequence[str], database: str, now: datetime.datetime, counts: list[AccountCounts]
) -> str:
    """The ledger and the counts of its accounts."""
    lines = [f"ledger id  {ledger_id}  (keep it in a safe place: `rebuild` needs it)"]
    lines.append(f"tables     {', '.join(tables)} ({database})")
    for account in counts:
        since = account.oldest_pending
        oldest = f"  oldest since {iso(since)} ({age(now, since)})" if since else ""
        lines += ["", f"account {account.account}"]
        states = [State.CREATED, State.REJECTED] + ([State.UPDATING] if account.states[State.UPDATING] else [])
        lines += [f"  {state:<9} {account.states[state]:>8}" for state in states]
        lines.append(f"  {State.PENDING:<9} {account.states[State.PENDING]:>8}{oldest}")
        holds = ((hold, account.holds[hold], text) for hold, text in HOLDS.items())
        lines += [f"    {hold:<7} {count:>8}  {text}" for hold, count, text in holds if count]
        lines += [f"  forgotten {account.forgotten:>8}"] if account.forgotten else []
        unfinished = f"  {account.unfinished} of them not finished: run `erase` again" if account.unfinished else ""
        lines += [f"  {'erased':<9} {account.erased:>8}{unfinished}"] if account.erased else []
        lines += [f"  {'changes':<9} {account.rejected_changes:>8}  rejected"] if account.rejected_changes else []
        lines += [f"  last update of a customer {iso(account.last_update)}"] if account.last_update else []
        for source, count in account.sources.items():
            lines += _indented(f"{count:>8}  from: {source}")
    return "\n".join(lines)


def renamed(old: str, new: str, result: Renamed) -> str:
    """The result of renaming a source."""
    rows = "1 row was" if result.rows == 1 else f"{result.rows} rows were"
    text = f'{rows} renamed from "{old}" to "{new}"'
    if result.held:
        text += f"; runs under way hold {result.held} of them and keep their claims. If such a run has the old name, "
        text += "repeat this command when it has ended"
    return text


def pending(rows: Iterable[PendingRow]) -> str:
    """Two lines per row: its state, then the run that claimed it."""
    lines = [f"{'SINCE':<20}  {'HOLD':<6}  {'TAKEOVER FROM':<20}  {'REFERENCE':<16}  KEY"]
    for row in rows:
        takeover, reference = iso(row.takeover_at), row.reference or "none"
        lines.append(f"{iso(row.since):<20}  {row.hold:<6}  {takeover:<20}  {reference:<16}  {display_key(row.key)}")
        updating = "its customer is being updated; " if row.state == State.UPDATING else ""
        run = f"{row.dag_id or '-'}.{row.task_id or '-'}, run {row.run_id or '-'}"
        lines += _indented(f"{updating}{run}; {row.source}; account {row.account}")
    return "\n".join(lines)


def row(found: Row) -> str:
    """A row, a line per column."""
    reasons = [f"{name}: {' '.join(texts)}" for name, texts in found.errors.items()]
    run = f"{found.dag_id or '-'}, run {found.run_id or '-'}"
    lines = {
        "key": display_key(found.key),
        "state": found.state,
        "customer": found.customer_id or "none",
        "reference": found.reference or "none",
        "source": found.source,
        "version": found.version,
        "since": iso(found.resolved_at or found.claimed_at),
        "updated": iso(found.updated_at) if found.updated_at else None,
        "last claim": run,
        "rejected": "; ".join(reasons),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items() if text)


def rejected(rows: Iterable[RejectedRow]) -> str:
    """A line per reason, the most frequent first; below its account, if there are several."""
    by_account: dict[str, Rejections] = {}
    for row in rows:
        by_account.setdefault(row.account, Rejections()).add(row.errors, row.key)
    parts = []
    for account, found in by_account.items():
        lines = [str(group) for group in found.groups()]
        if found.others:
            lines.append(f"{found.others} with other reasons: --csv lists them")
        indent = "" if len(by_account) == 1 else "  "
        shown = [line for text in lines for line in wrapped(text, indent)]
        parts.append("\n".join([f"account {account}"] * bool(indent) + shown))
    return "\n\n".join(parts)


def page(text: str, total: int, limit: int, offset: int) -> str:
    """The rows' text, and the option that prints the following rows."""
    left = total - offset - limit
    return f"{text}\n{left} more: --offset {offset + limit}" if left > 0 else text


_LEFT_BEHIND = {
    True: "and will never be used again",
    False: "so runs still stop: rebuild with those keys too, or give up the customers with --accept-loss",
}


def rebuilt(account: str, keys: int, customers: int, unusable: int, result: Rebuilt, *, given_up: bool) -> str:
    """The result of a rebuild; ``given_up``: whether the unexplained customers were given up."""
    lines = [f"account {account}: keys given: {keys}, customers at PayArc: {customers}"]
    lines += [
        f"  {verdict:<9} {result.counts[verdict]:>8}  {text}"
        for verdict, text in _VERDICTS.items()
        if result.counts[verdict]
    ]
    lines += [f"  {'unusable':<9} {unusable:>8}  keys that are missing or cannot be used"] if unusable else []
    for doubt in result.doubts:
        row = f", its row has {doubt.customer_id}" if doubt.customer_id else ""
        lines.append(f"    {doubt.verdict}: {display_key(doubt.key)}: {', '.join(doubt.candidates)}{row}")
    if count := len(result.unexplained):
        customers_belong = "customer belongs" if count == 1 else "customers belong"
        lines.append(f"{count} {customers_belong} to other keys of this ledger, {_LEFT_BEHIND[given_up]}")
    return "\n".join(lines)


def statements(ddl: Iterable[str]) -> str:
    """SQL statements, ready to be run."""
    lines = "\n\n".join(f"{statement};" for statement in ddl).expandtabs(2).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def age(now: datetime.datetime, then: datetime.datetime) -> str:
    """The time since ``then``, in the two largest units."""
    minutes = max(0, int((now - then).total_seconds())) // 60
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _indented(text: str) -> list[str]:
    return wrapped(text, "    ")


def wrapped(text: str, indent: str = "") -> list[str]:
    """The text in lines of at most `WIDTH` columns; those after the first are indented by two more."""
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return plain | ({"key": display_key(plain["key"])} if "key" in plain else {})
    if isinstance(value, datetime.datetime):
        return iso(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
