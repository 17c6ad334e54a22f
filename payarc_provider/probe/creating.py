"""Questions that are answered by creating customers: what PayArc requires, rejects, merges and alters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from payarc_provider.api.fields import FIELDS, read_customer_id
from payarc_provider.exceptions import PayarcNotFound, PayarcRefused, PayarcRunStopped
from payarc_provider.probe.findings import Finding
from payarc_provider.probe.people import FakePeople
from payarc_provider.probe.session import Answer, ProbeSession

_NAMES = {
    "accents": "Zoë Testperson",
    "punctuation": "O'Probe-Test Jr.",
    "digits": "Probe Testperson 2nd",
}


@dataclass(frozen=True, slots=True, repr=False)
class Subject:
    """The customer with which the probe experiments.

    :param sent: the fields with which it was created
    :param shown: the customer as PayArc's response showed it
    :param key: the idempotency key of the request that created it
    """

    customer_id: str
    sent: Mapping[str, str]
    shown: Mapping[str, Any]
    key: str


def is_rejected(answer: Answer) -> bool:
    """Whether PayArc rejected the data."""
    return isinstance(answer.error, PayarcRefused) and not isinstance(answer.error, PayarcNotFound)


def rejected_fields(answer: Answer) -> list[str]:
    """The fields that PayArc's reasons name."""
    errors = answer.error.errors if isinstance(answer.error, PayarcRefused) else {}
    return [name for name in FIELDS if name in errors]


def in_place_of(answer: Answer) -> str:
    """What came instead of a usable response, in words."""
    return f"PayArc answered {answer.status}" if answer.status else "no complete response arrived"


def unknown(topic: str, answer: Answer) -> Finding:
    """The finding for a response that answers nothing."""
    return Finding(topic, f"not found out, because {in_place_of(answer)}", "unknown")


def text_of(customer: Mapping[str, Any], name: str) -> str:
    """A field as text; empty if it has no value."""
    value = customer.get(name)
    return "" if value is None else str(value).strip()


def create_subject(session: ProbeSession, people: FakePeople) -> tuple[Subject, list[Finding]]:
    """Create the customer for the experiments, with a value in every field, or else with a name and an email only.

    :raises PayarcError: PayArc creates neither
    """
    key = f"probe-{people.marker}"
    sent = people.full_person("a")
    answer, refused = session.create(sent, key), ""
    if is_rejected(answer):
        fields = ", ".join(rejected_fields(answer))
        refused = f"a customer with a value in every field was rejected{f' because of {fields}' if fields else ''}"
        sent, key = people.person("a"), f"{key}-2"
        answer = session.create(sent, key)
    customer = answer.customer
    if customer is None:
        fields = ", ".join(rejected_fields(answer))
        raise PayarcRunStopped(
            f"the probe could not create a customer with a name and an email: {in_place_of(answer)}"
            f"{f', because of {fields}' if fields else ''}"
        )
    if str(read_customer_id(customer)) not in session.open_ids:
        raise PayarcRunStopped("PayArc's response to a creation does not show the customer that was created")
    subject = Subject(str(read_customer_id(customer)), sent, customer, key)
    return subject, [_new_customer(answer.status, customer), _values(subject, refused)]


def _new_customer(status: int, customer: Mapping[str, Any]) -> Finding:
    named = customer.get("customer_id") not in (None, "")
    style = {"id_style": "customer_id" if named else "guide", "create_status": status}
    found = f"status {status}, with the id under {'customer_id' if named else 'id'}"
    return Finding("New customer", found, settings=style)


def _values(subject: Subject, refused: str) -> Finding:
    topic = "Values"
    texts = {name: text_of(subject.shown, name) for name in subject.sent}
    altered = [name for name, text in texts.items() if text != subject.sent[name]]
    if not altered:
        return Finding(
            topic, refused or "every field comes back as it was sent", meaning="References in descriptions survive."
        )
    dropped = {name: "drop" for name in altered if not texts[name]}
    found = f"PayArc shows other values than were sent in {', '.join(altered)}"
    meaning = "A run with on_changed='update' counts these fields as altered."
    if "description" in altered:
        meaning += " Set reference=False, because a reference in the description would not survive."
    return Finding(topic, f"{refused}; {found}" if refused else found, "certain", meaning, {"alter": dropped})


def email_required(session: ProbeSession, people: FakePeople) -> Finding:
    """Whether a customer must have an email."""
    topic = "Email"
    person = {name: value for name, value in people.person("b", "Nomail Testperson").items() if name != "email"}
    answer = session.create(person)
    if answer.customer is not None:
        return Finding(topic, "not required", settings={"required": []})
    if not is_rejected(answer):
        return unknown(topic, answer)
    sure = "email" in rejected_fields(answer)
    meaning = "Map a column to email. Records without one are rejected."
    return Finding(topic, "required", "certain" if sure else "likely", meaning, {"required": ["email"]})


def letters_in_names(session: ProbeSession, people: FakePeople) -> Finding:
    """Which characters other than plain letters a name may have."""
    topic = "Names"
    answers = {kind: session.create(people.person(f"n{tag}", name)) for tag, (kind, name) in enumerate(_NAMES.items())}
    rejected = [kind for kind, answer in answers.items() if is_rejected(answer)]
    others = [answer for answer in answers.values() if answer.customer is None and not is_rejected(answer)]
    if others:
        return unknown(topic, others[0])
    if not rejected:
        return Finding(topic, f"{_listed(list(_NAMES))} are accepted", settings={"names": "any"})
    sure = all("name" in rejected_fields(answers[kind]) for kind in rejected)
    plain = [kind for kind in _NAMES if kind not in rejected]
    found = f"{_listed(rejected)} are rejected" + (f"; {_listed(plain)} are accepted" if plain else "")
    settings = {"names": "letters"} if len(rejected) > 1 else {}
    meaning = "Records with such names are rejected: fix them at the source, or allow some with max_rejected."
    return Finding(topic, found, "certain" if sure else "likely", meaning, settings)


def shared_email(session: ProbeSession, people: FakePeople, subject: Subject) -> Finding:
    """Whether two customers may have one email."""
    topic = "Shared email"
    person = people.person("d", "Second Testperson") | {"email": subject.sent["email"]}
    answer = session.create(person)
    if answer.customer is None and not is_rejected(answer):
        return unknown(topic, answer)
    if answer.customer is None:
        sure = "email" in rejected_fields(answer)
        meaning = "The second of two records with one email is rejected."
        settings = {"shared_email": "refused"}
        return Finding(topic, "rejected", "certain" if sure else "likely", meaning, settings)
    if read_customer_id(answer.customer) == subject.customer_id:
        meaning = "Two records with one email cannot both get a customer: the second is rejected by the provider."
        return Finding(topic, "PayArc returns the customer that has it", "certain", meaning, {"shared_email": "merged"})
    meaning = "With match_existing='email', a record is rejected if two customers have its email."
    return Finding(topic, "two customers may have one", "certain", meaning, {"shared_email": "allowed"})


def repeated_key(session: ProbeSession, people: FakePeople, subject: Subject, *, may_share_email: bool) -> Finding:
    """What a repeated ``Idempotency-Key`` does: with other data, then with the same.

    :param may_share_email: whether a second customer with the subject's email is not simply the subject again
    """
    topic, replay = "Repeated Idempotency-Key", {"idempotency": "replay"}
    honored = "The provider sends the key with each creation, but does not rely on it."
    answer = session.create(people.person("e"), subject.key)
    if answer.customer is not None and read_customer_id(answer.customer) == subject.customer_id:
        return Finding(topic, "returns the first customer, even for other data", "certain", honored, replay)
    if answer.customer is None and not is_rejected(answer):
        return unknown(topic, answer)
    again = session.create(subject.sent, subject.key) if may_share_email else None
    if again is not None and again.customer is not None:
        if read_customer_id(again.customer) == subject.customer_id:
            return Finding(topic, "returns the first customer, for the same data only", "certain", honored)
        return _ignored("certain" if answer.customer is not None else "likely")
    if again is not None and is_rejected(again) and answer.customer is not None:
        return _ignored("certain")
    return _ignored("likely") if answer.customer is not None else unknown(topic, answer)


def _ignored(certainty: Any) -> Finding:
    meaning = "Only the provider's own look-ups prevent duplicates after a lost response, which is what they are for."
    return Finding("Repeated Idempotency-Key", "ignored", certainty, meaning, {"idempotency": "ignored"})


def rejections(answers: Sequence[Answer]) -> Finding | None:
    """What a rejection looks like; None if PayArc has rejected nothing."""
    if not answers:
        return None
    answer = answers[0]
    fields = "with reasons by field" if rejected_fields(answer) else "without saying which field"
    shape = {422: "422", 409: "409-message" if answer.body else "409-list"}.get(answer.status)
    return Finding("Rejections", f"status {answer.status}, {fields}", settings={"envelope": shape} if shape else {})


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
