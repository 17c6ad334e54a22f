"""One window that several workers use up together: what a worker asks for, what it is given, and the account of it.

The account is a small JSON object that the workers keep where all of them reach it (the ledger's database, in a short
transaction). Its times are that database's clock. It is advice and no lock: who cannot reach it goes on by what
PayArc's answers tell, and PayArc's own count is the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Asking", "Granted", "take"]

_PROBE_EVERY = 1.0  # seconds between attempts while nobody knows when the window ends
_OPENS_WITHIN = 2.0  # seconds for an answer to who opens a window; then another tries
_ROUNDING = 1.0  # seconds to add to an end that no answer has confirmed yet
_GONE = 60.0  # seconds, or three windows, after which a worker that asks for nothing is none


@dataclass(frozen=True, slots=True)
class Asking:
    """What one worker asks for and knows. Its times are relative, in seconds.

    :param at: the worker's clock when this was put down
    :param want: how many places it can use at once; 0 to tell only
    :param window: the number of the window that it speaks of; None if it is the present one, as far as it knows
    :param over: the number of a window that an answer has shown to be over
    :param used: how many requests of the window are accounted for by answers and by what it has under way
    :param heard: whether an answer of the window has come
    :param refused: whether it was a 429
    :param opened_for: how long the window has been open, at least and at most; None if not known, or told before
    :param ends_in: when the window is over for certain; None if not known, or told before
    :param length: windows last more than the one and at most the other; None if not known, or told before
    :param seconds: how long a window lasts, by the best of its knowledge
    """

    worker: str
    want: int
    at: float
    window: int | None = None
    over: int | None = None
    limit: int | None = None
    used: int = 0
    heard: bool = False
    refused: bool = False
    opened_for: tuple[float, float] | None = None
    ends_in: float | None = None
    length: tuple[float, float] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """What a worker is given, and what the others know.

    :param at: the worker's clock when this held
    :param places: so many requests may go out before the window's end
    :param full: nothing is left of the window
    :param opens: this worker is to open the next one, without asking again, with one request
    :param workers: how many workers have asked lately, this one included
    """

    at: float
    window: int
    places: int
    full: bool
    opens: bool
    workers: int
    limit: int | None
    opened_for: tuple[float, float] | None
    ends_in: float | None
    length: tuple[float, float] | None


def take(account: dict[str, Any], asking: Asking, now: float, *, asked_for: float, at: float) -> Granted:
    """Change the account by what a worker asks for and knows; an empty one is that of a first window.

    :param now: the clock of the database that keeps the account
    :param asked_for: how long ago the worker put down what it asks
    :param at: the worker's clock
    """
    if not account:
        account.update(number=1, granted=0, heard=True, tried=None, opened=None, opener=None, end=None, workers={})
    account["seconds"] = asking.seconds or account.get("seconds")
    _enlist(account, asking.worker, now)
    if asking.over == account["number"] or (account["end"] is not None and now >= account["end"]):
        _open(account, now)
    if asking.window in (None, account["number"]):
        _note(account, asking, now - asked_for)
    account["limit"] = asking.limit or account.get("limit")
    account["length"] = asking.length or account.get("length")
    places = _grant(account, asking.want, now)
    full = account["heard"] and account["limit"] is not None and account["granted"] >= account["limit"]
    if full and asking.want and not places and account["end"] is not None:
        account["opener"] = account["opener"] or asking.worker
    opened, end, length = account["opened"], account["end"], account["length"]
    return Granted(
        at=at,
        window=account["number"],
        places=places,
        full=full,
        opens=account["opener"] == asking.worker,
        workers=len(account["workers"]),
        limit=account["limit"],
        opened_for=None if opened is None else (now - opened[1], now - opened[0]),
        ends_in=None if end is None else end - now,
        length=None if length is None else (length[0], length[1]),
    )


def _enlist(account: dict[str, Any], worker: str, now: float) -> None:
    gone = max(_GONE, 3 * (account["seconds"] or 0.0))
    account["workers"] = {name: at for name, at in account["workers"].items() if now - at < gone} | {worker: now}


def _open(account: dict[str, Any], now: float) -> None:
    seconds, opener = account["seconds"], account["opener"]
    account.update(
        number=account["number"] + 1,
        granted=0 if opener is None else 1,
        heard=False,
        tried=None if opener is None else now,
        opened=None,
        opener=None,
        end=None if seconds is None else now + seconds + _ROUNDING,
    )


def _note(account: dict[str, Any], asking: Asking, then: float) -> None:
    account["heard"] = account["heard"] or asking.heard
    account["granted"] = max(account["granted"], asking.used)
    if asking.opened_for is not None:
        account["opened"] = [then - asking.opened_for[1], then - asking.opened_for[0]]
    if asking.ends_in is not None:
        reckoned = account["opened"][1] + account["seconds"] if account["opened"] and account["seconds"] else 0.0
        end = then + asking.ends_in
        account["end"] = min(reckoned, end) if reckoned > then else end
    if asking.refused:
        account["granted"] = max(account["granted"], asking.limit or 0)


def _grant(account: dict[str, Any], want: int, now: float) -> int:
    if want < 1 or account["limit"] is None:
        return 0
    left = int(account["limit"] - account["granted"])
    if not account["heard"] or (left <= 0 and account["end"] is None):
        # One finds out, alone: whether the window is open, or when it ends.
        patience = _PROBE_EVERY if account["heard"] else _OPENS_WITHIN
        if account["tried"] is not None and now - account["tried"] < patience:
            return 0
        account["tried"] = now
        account["granted"] += 1
        return 1
    places = max(0, min(want, left, max(1, left // len(account["workers"]))))
    account["granted"] += places
    return places
