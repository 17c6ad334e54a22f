"""All questions in the order that needs the fewest requests."""

from __future__ import annotations

from collections.abc import Callable

from payarc_provider.exceptions import (
    PayarcAuthError,
    PayarcConnectionFailed,
    PayarcError,
    PayarcRefused,
    PayarcRunStopped,
)
from payarc_provider.probe import changing, creating, listing
from payarc_provider.probe.findings import Finding
from payarc_provider.probe.limits import limit_finding
from payarc_provider.probe.people import FakePeople
from payarc_provider.probe.session import ProbeSession

_SECOND = 1.1  # times are whole seconds: after this pause, a new customer has another one


def ask_all(session: ProbeSession, people: FakePeople, findings: list[Finding]) -> None:
    """Ask every question; ``findings`` grows as answers arrive, so that it is of use after an error too.

    :raises PayarcError: the list cannot be read, no customer can be created, or PayArc cannot be reached any more
    :raises Interrupted: the probe was told to stop
    """
    first = session.page()
    if isinstance(first.error, PayarcRefused):  # its text may be PayArc's
        raise PayarcRunStopped(f"PayArc's list could not be read, because {creating.in_place_of(first)}")
    if first.error is not None:
        raise first.error
    subject, found = creating.create_subject(session, people)
    findings += found

    def ask(topic: str, question: Callable[[], Finding | list[Finding]]) -> None:
        try:
            answer = question()
        except (PayarcAuthError, PayarcConnectionFailed, PayarcRunStopped):
            raise
        except PayarcError as error:
            answer = Finding(topic, f"not found out ({type(error).__name__})", "unknown")
        findings.extend(answer if isinstance(answer, list) else [answer])

    ask("Email", lambda: creating.email_required(session, people))
    ask("Names", lambda: creating.letters_in_names(session, people))
    if listing.distinct_times(first) < 2:
        session.sleep(_SECOND, "the next second")
    ask("Shared email", lambda: creating.shared_email(session, people, subject))
    merges = findings[-1].settings.get("shared_email") == "merged"
    ask("Idempotency", lambda: creating.repeated_key(session, people, subject, may_share_email=not merges))
    ask("Empty values", lambda: changing.changes(session, subject))
    ask("Unknown customer", lambda: changing.missing_customer(session, people))

    def about_the_list() -> list[Finding]:
        lists = [session.page(), session.page()]
        if any(one.error is not None for one in lists):
            return [creating.unknown("List", next(one for one in lists if one.error is not None))]
        shows_new = listing.new_customers(lists[0], session.open_ids)
        return [
            listing.page_size(lists[0]),
            listing.order(lists),
            *([shows_new] if shows_new else []),
            listing.times(subject, lists[0]),
            listing.embedded([first, *lists]),
            listing.search(session, subject, lists[0].pagination("total")),
        ]

    ask("List", about_the_list)
    ask("Deleted customer", lambda: changing.deletion(session, subject))
    if rejections := creating.rejections(session.rejected):
        findings.append(rejections)


def ask_about_the_limit(session: ProbeSession, findings: list[Finding]) -> None:
    """Put what is known of the rate limit first; where no header shows it, spend the requests left on it.

    Call it after the clean-up, which a rate limit would only delay.
    """
    if session.seen and not any(one.limit for one in session.seen):
        session.send_until_429()
    findings.insert(0, limit_finding(session.seen))
