"""Questions that are answered by changing, deleting and reading single customers."""

from __future__ import annotations

from payarc_provider.exceptions import PayarcNotFound
from payarc_provider.probe.creating import Subject, is_rejected, text_of, unknown
from payarc_provider.probe.findings import Finding
from payarc_provider.probe.people import CLEARED, FakePeople
from payarc_provider.probe.session import Answer, ProbeSession

_CITY = "Probetown"


def changes(session: ProbeSession, subject: Subject) -> list[Finding]:
    """What a PATCH does with empty values, and whether its response shows what PayArc has stored."""
    topic = "Empty values"
    emptied = [name for name in CLEARED if text_of(subject.shown, name)]
    answer = session.patch(subject.customer_id, {"city": _CITY, **dict.fromkeys(emptied, "")})
    if is_rejected(answer):
        meaning = "Keep on_empty='keep': with 'clear', records with an emptied field are rejected."
        return [Finding(topic, f"a PATCH with an empty value is rejected ({answer.status})", "likely", meaning)]
    if answer.error is not None:
        return [unknown(topic, answer)]
    stored = session.get(subject.customer_id).customer
    if stored is None:
        return [Finding(topic, "not found out, because the customer could not be read afterwards", "unknown")]
    echo = answer.customer or {}
    findings = [_emptied(topic, [name for name in emptied if text_of(stored, name)], emptied)]
    shown = [name for name in ("city", *emptied) if name in echo]
    wrong = [name for name in shown if text_of(echo, name) != text_of(stored, name)]
    findings.append(_echo(shown, wrong, all_cleared=not any(text_of(stored, name) for name in emptied)))
    if text_of(stored, "city") != _CITY:
        findings.append(
            Finding("Changes", "a PATCH did not change the city", meaning="on_changed='update' does not work.")
        )
    return findings


def _emptied(topic: str, kept: list[str], emptied: list[str]) -> Finding:
    if not emptied:
        return Finding(topic, "not found out, because the customer had no value to clear", "unknown")
    if not kept:
        return Finding(
            topic,
            "a PATCH with an empty value clears the field",
            "certain",
            "on_empty='clear' works.",
            {"empty_values": "cleared"},
        )
    if len(kept) == len(emptied):
        meaning = "Keep on_empty='keep': with 'clear', records with an emptied field are rejected."
        found = "a PATCH with an empty value leaves the old one"
        return Finding(topic, found, "certain", meaning, {"empty_values": "ignored"})
    meaning = "With on_empty='clear', records are rejected whose emptied fields PayArc keeps."
    return Finding(topic, f"a PATCH clears some fields, but not {', '.join(kept)}", "certain", meaning)


def _echo(shown: list[str], wrong: list[str], *, all_cleared: bool) -> Finding:
    topic = "Response to a PATCH"
    if not shown:
        return Finding(topic, "does not show the changed fields", "certain", "The provider reads the customer instead.")
    if wrong:
        meaning = "Do not use on_empty='clear': the provider believes this response."
        return Finding(
            topic, "repeats what was sent, although PayArc ignored it", "certain", meaning, {"patch_echo": "sent"}
        )
    return Finding(
        topic, "shows what PayArc has stored", "likely" if all_cleared else "certain", "", {"patch_echo": "stored"}
    )


def missing_customer(session: ProbeSession, people: FakePeople) -> Finding:
    """How PayArc answers for an id that it does not know."""
    topic = "Unknown customer"
    answer = session.get(f"{people.marker}{people.marker}")
    if answer.status == 404 and isinstance(answer.error, PayarcNotFound):
        is_envelope = answer.body.get("status") == "error" or "status_code" in answer.body
        found = f"404 with {'the error envelope' if is_envelope else 'a message alone'}"
        return Finding(topic, found, settings={"not_found": "envelope" if is_envelope else "message"})
    if answer.status == 0:
        return unknown(topic, answer)
    meaning = "The provider does not take this for a missing customer: changes of deleted customers stop the run."
    return Finding(topic, f"status {answer.status}, not a 404 in a known format", "certain", meaning)


def deletion(session: ProbeSession, subject: Subject) -> Finding:
    """Whether a deleted customer can still be read."""
    topic = "Deleted customer"
    answer = session.delete(subject.customer_id)
    if answer.error is not None:
        return unknown(topic, answer)
    return _after_delete(topic, session.get(subject.customer_id))


def _after_delete(topic: str, answer: Answer) -> Finding:
    if isinstance(answer.error, PayarcNotFound):
        return Finding(topic, "cannot be read any more", settings={"deletion": "gone"})
    if answer.customer is None:
        return unknown(topic, answer)
    meaning = "That a customer can be read does not prove that it is still there: look for it in the dashboard's list."
    return Finding(topic, "can still be read by its id", "certain", meaning, {"deletion": "soft"})
