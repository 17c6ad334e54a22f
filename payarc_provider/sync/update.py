"""Brings changed records to PayArc: one PATCH per customer, and never an older one after a newer one.

A PATCH may be repeated safely, so nothing is looked up. What must not happen is that an older one arrives after a newer
one. A customer's row is claimed before its request is sent. If there is no usable response, the row stays open, and the
next request waits until the first one can no longer be applied.
"""

from __future__ import annotations

import datetime
import json
import logging
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from payarc_provider.exceptions import PayarcError, PayarcNotFound, PayarcRunStopped
from payarc_provider.sync.changes import EMPTY, afterwards, allows, change_of, while_open, with_shown
from payarc_provider.sync.checkpoints import reach
from payarc_provider.sync.fingerprints import altered_fields, fingerprints, from_column, own_fields
from payarc_provider.sync.keys import display_key
from payarc_provider.sync.ledger import EPOCH, Note, Row, State, UpdateClaim, UpdateResult
from payarc_provider.sync.ledger.rows import should_retry
from payarc_provider.sync.outcomes import LeaseTooShort, Outcome, Rejected, Updated, outcome_of
from payarc_provider.sync.plan import Action, Step, begun_text
from payarc_provider.sync.records import Errors, Record
from payarc_provider.sync.reference import with_reference
from payarc_provider.sync.results import Status
from payarc_provider.sync.runtime import UPDATE
from payarc_provider.sync.state import Claim, RunState, Update
from payarc_provider.sync.versions import are_comparable, describe_kind, is_newer
from payarc_provider.sync.wording import clock_time, counted

if TYPE_CHECKING:
    from payarc_provider.sync.send import Sender

log = logging.getLogger(__name__)

SHOWN_KEYS = 10
EMPTIED = "has no value any more at the source: fill it in, or set on_empty to keep or clear PayArc's value"
EDITED = "was edited at PayArc: make it the same there and at the source, or set on_conflict to overwrite or keep it"
IGNORED = (
    "keeps its value at PayArc, which ignores empty values: clear it in PayArc's dashboard, and run again with "
    "retry_rejected=True"
)
NEWER_OPEN = "another run has sent newer data, and it is unknown whether PayArc has it; run again with the newest data"


class Updater:
    """Claims the customers of changed records, and makes and examines the requests that change them.

    ``unresolved``: key → why it is not certain that PayArc has the record's values or newer ones. ``altered``: fields
    that PayArc has shown with other values than were sent.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self.unresolved: dict[str, str] = {}
        self.altered: set[str] = set()

    # ---- claiming ---------------------------------------------------------------------------------------------------

    async def take(
        self,
        records: Mapping[str, Record],
        rows: Mapping[str, Row],
        sender: Sender,
        reference_for: Callable[[Record], str | None],
        contact_payarc: Callable[[], Awaitable[None]],
    ) -> None:
        """Report the records whose customers need no change, postpone those that others may change, claim the others.

        :param records: key → record without errors
        :param rows: key → its row, which has a customer
        :param contact_payarc: checks the token and the clocks before the first claim
        """
        state, settings = self._state, self._state.settings
        claim_id = state.new_claim_id()
        now = EPOCH
        if any(rows[key].state == State.UPDATING for key in records):
            now = await state.transact(lambda ledger: ledger.now())
        updates: dict[str, tuple[Record, Update]] = {}
        notes: dict[str, tuple[Record, Note]] = {}
        for key, record in records.items():
            if not self._needs_decision(record, rows[key], now):
                continue
            decided = self._plan(record, rows[key], claim_id, reference_for)
            if isinstance(decided, Update):
                updates[key] = record, decided
            elif isinstance(decided, Note):
                notes[key] = record, decided
        steps = [Step(record, Action.UPDATE, update.fields) for record, update in updates.values()]
        if settings.dry_run:
            state.counts["would_update"] += len(updates)
            state.add_to_plan(*steps)
            for key, (record, _) in notes.items():
                state.accept(record, rows[key].customer_id or "", Status.KNOWN, changed=False)
            return
        state.admit(steps)
        if notes:
            await self._note(notes)
        if updates:
            await contact_payarc()
            await self._claim(claim_id, updates, sender)

    async def _note(self, notes: Mapping[str, tuple[Record, Note]]) -> None:
        state, texts = self._state, [note for _, note in notes.values()]
        done = await state.transact(lambda ledger: ledger.note_unchanged(state.me, texts))
        for key, (record, note) in notes.items():
            if key not in done:
                state.postponed.append(record)
                continue
            status = state.status_of(note.before)
            state.accept(record, note.before.customer_id or "", status, changed=False)

    async def _claim(self, claim_id: str, updates: Mapping[str, tuple[Record, Update]], sender: Sender) -> None:
        state = self._state
        claims = [update.claim for _, update in updates.values()]
        evidence = state.memory.of(updates.keys())
        reach("before_update_claim")
        requested = state.runtime.now()
        rows = await state.transact(
            lambda ledger: ledger.claim_updates(state.me, claims, clock=state.clock, evidence=evidence)
        )
        reach("after_update_claim")
        for key, (record, update) in updates.items():
            row = rows.get(key)
            if row is None or row.claim != claim_id:
                state.postponed.append(record)
                continue
            lease_end = requested + state.settings.lease
            sender.send(
                Claim(record, claim_id, row.attempt, row.inserted_at, update.reference, 0.0, lease_end, update=update)
            )

    def _needs_decision(self, record: Record, row: Row, now: datetime.datetime) -> bool:
        """Whether the record may be newer than what PayArc has; otherwise it is reported or postponed.

        :param now: the database's time
        """
        state, settings = self._state, self._state.settings
        is_same = row.digest == record.digest
        if row.source != state.me.source and not is_same:
            self._reject(record, other_source_error(row, state.me.source))
        elif (problem := _version_problem(record, row, settings.version)) is not None:
            self._reject(record, problem)
        elif record.version is not None and is_newer(row.version, record.version):
            self._accept_older(record, row, stale=not is_same or row.error is not None)
        elif self._is_open(row, now) and not settings.dry_run:
            state.postponed.append(record)
        elif record.version is not None and is_newer(row.wanted_version, record.version):
            if self._is_open(row, now):
                self._accept_older(record, row, stale=True)
            else:
                self.unresolved[record.key or ""] = NEWER_OPEN
        elif is_same and row.error is not None and not should_retry(row, settings.retry_rejected):
            state.counts["known_rejected"] += not state.is_from_this_task(row)
            state.reject(record, row.errors, new=state.is_from_this_task(row))
        else:
            return True
        return False

    def _is_open(self, row: Row, now: datetime.datetime) -> bool:
        """Whether a request may still change the customer, of another run or of this one."""
        # A claim of this run may have been lost without its knowing.
        return row.key in self._state.claims or (row.state == State.UPDATING and row.takeover_at >= now)

    def _plan(
        self, record: Record, row: Row, claim_id: str, reference_for: Callable[[Record], str | None]
    ) -> Update | Note | None:
        """The request that a record needs, or what to note in its row; None if the record is rejected."""
        state, settings = self._state, self._state.settings
        prints = fingerprints(state.ledger_id, record.fields)
        change = change_of(row.fingerprints, prints, record.columns)
        if change.emptied and settings.on_empty == "reject":
            self._reject(record, {name: [EMPTIED] for name in sorted(change.emptied)})
            return None
        cleared = change.emptied if settings.on_empty == "clear" else frozenset()
        sent = {name: prints[name] for name in change.changed} | dict.fromkeys(cleared, EMPTY)
        if not sent and row.state == State.CREATED:
            return Note(row, record.digest, row.fingerprints, record.version)
        fields = {name: record.fields.get(name, "") for name in sent}
        reference = row.reference
        if "description" in fields and (reference := reference_for(record)):
            fields["description"] = with_reference(fields["description"], reference) or ""
        mark = state.me.mark(record.begun or begun_text(Action.UPDATE, fields))
        claim = UpdateClaim(claim_id, row, while_open(row.fingerprints, sent), record.version, mark)
        return Update(row.customer_id or "", fields, sent, claim, reference, is_open=row.state == State.UPDATING)

    def _accept_older(self, record: Record, row: Row, *, stale: bool) -> None:
        self._state.counts["stale"] += stale
        self._state.accept(record, row.customer_id or "", Status.KNOWN, changed=stale, stale=stale)

    def _reject(self, record: Record, errors: Errors) -> None:
        """Reject a record by our own rules, which changes no row."""
        self._state.counts["known_rejected"] += 1
        self._state.reject(record, errors, new=True)

    def raise_if_unresolved(self) -> None:
        """Raise if PayArc may have older values than those of a record of this run.

        :raises PayarcRunStopped: names the first of these records
        """
        if not self.unresolved:
            return
        first = "; ".join(f"{display_key(key)}: {why}" for key, why in list(self.unresolved.items())[:SHOWN_KEYS])
        records = counted(len(self.unresolved), "record has", "records have")
        raise PayarcRunStopped(f"{records} changes that may not have reached PayArc: {first}")

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def request(self, claim: Claim, update: Update) -> Outcome:
        """Send the change, and compare the response with it."""
        state, runtime = self._state, self._state.runtime

        def pass_gate() -> None:
            claim.pass_gate(runtime.now(), state.settings.timeout)
            reach("sending_update")

        reach("before_update")
        fields = dict(update.fields)
        try:
            edited = await self._edited(update)
            if edited and state.settings.on_conflict == "reject":
                runtime.release(UPDATE)
                return Rejected({name: [EDITED] for name in sorted(edited)})
            fields = {name: value for name, value in fields.items() if name not in edited}
            if not fields:
                runtime.release(UPDATE)
                return Updated(self._result(claim, update, sent=False))
            customer = await runtime.update(update.customer_id, fields, pass_gate)
            update.is_open = True  # it is applied, even if reading it back fails
            reach("after_update_response")
            return await self._examine(claim, update, fields, customer)
        except PayarcNotFound:
            return Rejected({"record": [_gone(update.customer_id)]})
        except (PayarcError, LeaseTooShort) as error:
            return outcome_of(error)

    async def _edited(self, update: Update) -> set[str]:
        """The fields to send that were edited at PayArc, if that matters."""
        if self._state.settings.on_conflict == "overwrite" or not update.fields:
            return set()
        runtime, customer_id = self._state.runtime, update.customer_id
        customer = await self._state.payarc.read(lambda: runtime.get_customer(customer_id))
        shown = fingerprints(self._state.ledger_id, own_fields(customer))
        known = from_column(update.claim.before.fingerprints)
        edited = {
            name
            for name in update.fields
            if not allows(known.get(name), shown.get(name)) and shown.get(name, EMPTY) != update.sent[name]
        }
        self._state.counts["conflicts"] += bool(edited)
        return edited

    async def _examine(
        self, claim: Claim, update: Update, fields: Mapping[str, str], customer: Mapping[str, Any]
    ) -> Outcome:
        """Compare the customer that PayArc has returned with the fields that were sent."""
        state, runtime = self._state, self._state.runtime
        cleared = {name for name, value in fields.items() if not value}
        if cleared:  # a response may repeat an empty value that PayArc has ignored
            customer = await state.payarc.read(lambda: runtime.get_customer(update.customer_id))
        altered = altered_fields(fields, customer)
        if ignored := altered & cleared:
            errors = {name: [IGNORED] for name in sorted(ignored)}
            return Updated(self._result(claim, update, sent=True, without=ignored, errors=errors))
        if not altered:
            return Updated(self._result(claim, update, sent=True))
        state.counts["altered"] += 1
        if new := altered - self.altered:
            self.altered |= new
            log.warning("PayArc shows other values than were sent to it in %s", ", ".join(sorted(new)))
        shown = fingerprints(state.ledger_id, own_fields(customer))
        return Updated(self._result(claim, update, sent=True, prints=with_shown(update.sent, shown, altered)))

    def _result(
        self,
        claim: Claim,
        update: Update,
        *,
        sent: bool,
        prints: Mapping[str, str] | None = None,
        without: set[str] | None = None,
        errors: Errors | None = None,
    ) -> UpdateResult:
        applied = {name: one for name, one in (prints or update.sent).items() if name not in (without or ())}
        return UpdateResult(
            claim.key,
            claim.id,
            claim.record.digest,
            afterwards(update.claim.before.fingerprints, applied),
            claim.record.version,
            None,
            update.reference,
            errors=errors,
            sent=sent,
        )

    def refused(self, claim: Claim, update: Update, errors: Errors) -> UpdateResult:
        """What to record if PayArc has rejected the change: it has what it had before."""
        before = update.claim.before
        newest = before.wanted_version
        if update.is_open and (newest is None or is_newer(claim.record.version, newest)):
            newest = claim.record.version  # an earlier request without a usable response may have been applied
        return UpdateResult(
            claim.key,
            claim.id,
            claim.record.digest,
            update.claim.fingerprints if update.is_open else before.fingerprints,
            before.version,
            newest,
            before.reference,
            errors=errors,
            sent=False,
        )

    # ---- unknown outcomes -------------------------------------------------------------------------------------------

    async def send_again(self, sender: Sender) -> None:
        """Send the changes without a usable response again, when the first requests can no longer be applied.

        Call it only while nothing is in flight.
        """
        state = self._state
        unknown, sender.unknown_updates = sender.unknown_updates, {}
        if not unknown:
            return
        await self._wait_until_final(unknown.values())
        if state.stop:
            return
        for key, claim in unknown.items():
            if claim.lost:
                state.postpone(claim)
            elif sender.tries[key] >= state.settings.max_tries:
                self.unresolved[key] = (
                    f"PayArc gave no usable response to {counted(sender.tries[key], 'request')}; run again"
                )
                state.give_up(claim)
            else:
                sender.send(claim)

    async def _wait_until_final(self, unknown: Collection[Claim]) -> None:
        """Wait until none of these requests can be applied any more."""
        state = self._state
        final_at = max(claim.checked_at for claim in unknown) + state.settings.settle
        wait = final_at - state.runtime.now()
        changes = counted(len(unknown), "change")
        if wait > 0:
            log.info(
                "No usable response to %s: sending again at %s, when PayArc can no longer apply them (settle)",
                changes,
                clock_time(wait),
            )
        else:
            log.info("No usable response to %s: sending again", changes)
        while wait > 0 and not state.stop:
            with state.waits.during(f"to send {changes} again at {{}}", wait):
                await state.sleep(wait)
            wait = final_at - state.runtime.now()


def other_source_error(row: Row, source: str) -> Errors:
    """Why a record of this source is rejected whose key belongs to another source."""
    return {
        "key": [
            f"already belongs to a customer with other data (it is {row.customer_id}), created from another source, "
            f"{row.source}. If the source was renamed, set source={json.dumps(row.source, ensure_ascii=False)}, or run "
            f"python -m payarc_provider.ledger rename-source {shlex.quote(row.source)} {shlex.quote(source)}. "
            "If they are different people, give this source a key or a ledger_table of its own"
        ]
    }


def _version_problem(record: Record, row: Row, column: str | None) -> Errors | None:
    """Why the record cannot be compared with its row; None if it can be."""
    for other in (row.version, row.wanted_version):
        if not are_comparable(record.version, other):
            kinds = f"{describe_kind(record.version or '')}, and the customer's is {describe_kind(other or '')}"
            remedy = "use a column of one type, or run once without version, which forgets the old versions"
            return {column or "version": [f"is {kinds}: {remedy}"]}
    return None


def _gone(customer_id: str) -> str:
    return (
        f"PayArc has no such customer any more (it is {customer_id}). To create it again, forget its key with "
        "python -m payarc_provider.ledger forget, and run again"
    )
