"""Settings: how the sandbox behaves from one request to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

IdStyle = Literal["customer_id", "guide"]
TimeStyle = Literal["unix", "guide"]
RateLimitPer = Literal["endpoint", "user"]
RetryAfter = Literal["seconds", "date", "none"]
Envelope = Literal["422", "409-message", "409-list"]
Idempotency = Literal["ignored", "replay"]
Alteration = Literal["upper", "lower", "title", "trim", "drop", "cut", "no_hash", "alphanumeric", "append"]
ListOrder = Literal["newest", "oldest", "random", "id"]
ListTimes = Literal["shown", "missing", "unreadable"]
ListSeeded = Literal["shown", "null", "no_id"]
EmptyValues = Literal["ignored", "cleared"]
PatchEcho = Literal["stored", "sent"]
Deletion = Literal["gone", "soft"]
NotFound = Literal["envelope", "message"]
SharedEmail = Literal["allowed", "merged", "refused"]
Names = Literal["any", "letters"]

CUT_LENGTH = 30

_CHOICES: dict[str, tuple[Any, ...]] = {
    "id_style": get_args(IdStyle),
    "time_style": get_args(TimeStyle),
    "rate_limit_per": get_args(RateLimitPer),
    "retry_after": get_args(RetryAfter),
    "envelope": get_args(Envelope),
    "idempotency": get_args(Idempotency),
    "list_order": get_args(ListOrder),
    "list_times": get_args(ListTimes),
    "list_seeded": get_args(ListSeeded),
    "empty_values": get_args(EmptyValues),
    "patch_echo": get_args(PatchEcho),
    "deletion": get_args(Deletion),
    "not_found": get_args(NotFound),
    "shared_email": get_args(SharedEmail),
    "names": get_args(Names),
}


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """How the sandbox behaves. The defaults are PayArc as observed, without a rate limit and without delays.

    :param latency: seconds that every request takes: half before the request is carried out, half after
    :param jitter: up to this many seconds more, drawn for each request
    :param rate_limit: requests per window; None for no limit and no rate-limit headers
    :param rate_limit_per: count by token and ``endpoint``, or count all requests of a ``user`` (merchant) together
    :param rate_window: seconds from the first request of a window to its end
    :param rate_headers: False omits every rate-limit header, also from a 429
    :param retry_after: the format of ``Retry-After`` in a 429
    :param id_style: ``customer_id`` as observed, or ``guide``: ``id`` and the numeric ``real_id``
    :param time_style: ``unix`` seconds as observed, or ``guide``: ``2018-11-27 07:36:58``, in UTC
    :param create_status: the status of a successful POST
    :param envelope: the format of the response when a record is rejected
    :param idempotency: whether an ``Idempotency-Key`` is ``ignored``, or its first response is sent again (``replay``);
        responses are remembered in memory only
    :param not_found: the 404 for an unknown customer: PayArc's ``envelope``, or only a ``message`` about the route
    :param names: whether a ``name`` may have ``any`` characters, or only ``letters`` and white space
    :param required: fields that a POST must have
    :param taken: field → values that PayArc rejects as already taken
    :param tokens: token → merchant, for tokens other than those of :func:`~payarc_provider.sandbox.tokens.make_token`
    :param alter: field → how its value is changed before it is stored; ``cut`` keeps 30 characters, ``no_hash`` removes
        each ``#``, ``alphanumeric`` everything but letters and digits, and ``append`` adds text, beyond PayArc's limits
    :param shared_email: whether a POST with another customer's email is ``allowed``, ``refused``, or answered with the
        oldest customer that has this email and a 200 (``merged``)
    :param shuffle_same_second: list the rows of one second in another order each time a page is read
    :param delay_list: seconds between reading a list and responding with it
    :param page_cap: the most customers on a page; a larger ``limit`` is cut without a word
    :param search: the query parameter by which a list can be filtered for an email; None for no search
    :param embed_cards: list each customer with a card, a charge and a bank account of its own
    :param list_order: the order of lists; ``random`` differs from page to page
    :param list_lag: seconds after which a new customer appears in lists and their totals
    :param list_only: show only so many customers, from the top, and report that there are no more; 0 for an empty list
    :param list_shift: seconds by which the times in lists are ahead of those in other responses
    :param list_times: whether lists show ``created_at``
    :param list_seeded: how lists show customers that were seeded: as they are, as ``null``, or without an id
    :param list_cache: seconds for which a page is sent again with its old ``Date``, even to ``Cache-Control: no-cache``
    :param empty_values: what a PATCH does with an empty value: the old value stays, or the field is cleared
    :param patch_echo: whether the response to a PATCH shows what is ``stored``, or what was ``sent``, ignored or not
    :param deletion: whether a deleted customer is ``gone``, or can still be read by its id, but not listed or changed
    :param clock_offset: seconds by which PayArc's clock is ahead of this machine's
    """

    latency: float = 0.0
    jitter: float = 0.0
    rate_limit: int | None = None
    rate_limit_per: RateLimitPer = "endpoint"
    rate_window: float = 60.0
    rate_headers: bool = True
    retry_after: RetryAfter = "seconds"
    id_style: IdStyle = "customer_id"
    time_style: TimeStyle = "unix"
    create_status: int = 201
    envelope: Envelope = "422"
    idempotency: Idempotency = "ignored"
    not_found: NotFound = "envelope"
    names: Names = "any"
    required: Sequence[str] = ()
    taken: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    alter: Mapping[str, Alteration] = field(default_factory=dict)
    shared_email: SharedEmail = "allowed"
    shuffle_same_second: bool = False
    delay_list: float = 0.0
    page_cap: int = 100
    search: str | None = None
    embed_cards: bool = False
    list_order: ListOrder = "newest"
    list_lag: float = 0.0
    list_only: int | None = None
    list_shift: int = 0
    list_times: ListTimes = "shown"
    list_seeded: ListSeeded = "shown"
    list_cache: float = 0.0
    empty_values: EmptyValues = "ignored"
    patch_echo: PatchEcho = "stored"
    deletion: Deletion = "gone"
    clock_offset: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}")
        if not set(self.alter.values()) <= set(get_args(Alteration)):
            raise ValueError(f"alter must be one of {', '.join(get_args(Alteration))}")
        for name in ("latency", "jitter", "delay_list", "list_lag", "list_cache"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.list_only is not None and self.list_only < 0:
            raise ValueError("list_only must not be negative")
        if self.page_cap < 1:
            raise ValueError("page_cap must be at least 1")
        if self.rate_limit is not None and (self.rate_limit < 1 or self.rate_window <= 0):
            raise ValueError("rate_limit must be at least 1 and rate_window greater than 0")

    def changed(self, changes: Mapping[str, Any]) -> SandboxSettings:
        """A copy with some settings changed; ValueError for an unknown name or an invalid value."""
        if unknown := set(changes) - {known.name for known in fields(self)}:
            raise ValueError(f"Unknown setting: {', '.join(sorted(unknown))}")
        return replace(self, **changes)
