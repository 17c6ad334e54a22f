"""One endpoint's window: what the answers have told of it, and when the next request may go.

A window is fixed, and opens with its first request (Laravel's throttle). Answers count what is used of it, whoever used
it; a 429 tells about when it ends, in whole seconds. Where a window was seen to open, its length follows from that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from payarc_provider.api.shared_window import Asking, Granted

__all__ = ["Sent", "Window"]

PROBE_EVERY = 1.0  # seconds between attempts while nothing tells when the window ends
ASK_AGAIN = 0.05  # seconds until an answer under way may have changed things
FORGOTTEN = 120.0  # seconds after which what is still reserved was left behind, and must not block the rest
LONGEST = 3600.0  # seconds for which a 429 is believed
_LOOK_FOR_COMPANY = 0.5  # seconds between looks at the account while others are there and it shows none of them
_CLOSE = 2.0  # seconds that a window may go on after the end that was reckoned, and still be the same one


class Sent(NamedTuple):
    """A request that left: ``tick`` puts departures and answers in order, ``at`` is the limiter's clock."""

    endpoint: str
    tick: int
    at: float


@dataclass(slots=True)
class Length:
    """How long windows last, as far as it is known: more than the one and at most the other, in seconds."""

    more_than: float = 0.0
    at_most: float = math.inf

    @property
    def seconds(self) -> float | None:
        """The shortest whole number of seconds that fits, else the most that fits; None if nothing is known."""
        if self.at_most == math.inf:
            return None
        whole = float(math.floor(self.more_than + 1e-6) + 1)
        return whole if whole <= self.at_most + 1e-6 else self.at_most

    def learn(self, more_than: float, at_most: float) -> None:
        """Narrow it; what contradicts all that is known takes its place, unless it is so long that it is a penalty."""
        if at_most >= 2 * self.at_most:
            return
        both = max(more_than, self.more_than), min(at_most, self.at_most)
        self.more_than, self.at_most = both if both[0] < both[1] else (more_than, at_most)


@dataclass(slots=True)
class Window:
    """The present window of one endpoint, in the clock's seconds and the limiter's ticks."""

    limit: int | None = None
    length: Length = field(default_factory=Length)
    under_way: int = 0  # reserved and not answered
    last_go: float = -math.inf
    # ---- of this window
    begun: int = 0  # tick; who left before it may belong to the window before
    heard: bool = False
    refused: bool = False  # by a 429
    used: int = 0  # the most that any answer accounts for
    told: int = 0  # tick of the answer that told it
    lost: int = 0  # sent, and no answer tells whether PayArc has counted them
    lost_at: int = 0
    mine: int = 0  # answered, not refused
    going: int = 0  # under way, of this window
    strays: int = 0  # answered, and perhaps of this window though they left before it
    opened: tuple[float, float] | None = None  # between which moments its first request was handled
    opened_before: tuple[float, float] | None = None
    ends_by: float | None = None  # by 429s, by X-RateLimit-Reset, or by other workers
    others: bool = False  # it is used by others too
    others_before: bool = False
    share: float = 0.5  # which part of a window this worker got, where others use it too
    # ---- of the common account, see shared_window
    account_from: float = math.inf  # from when on it can be asked
    company: bool = False  # it is kept with other workers
    number: int | None = None  # the window's, there
    number_over: int | None = None
    stock: int = 0  # places that were granted
    full: bool = False
    opener: bool = False  # this worker is to open the next one
    ask_at: float = -math.inf
    news: bool = False  # it is to be told that the window is open, or used up
    seen: bool = False  # and when it opened or ends, as this worker has seen

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left of it."""
        return self.refused or self.full or (self.limit is not None and self.used + self.lost >= self.limit)

    @property
    def shared(self) -> bool:
        """Whether others use it too, or did so lately."""
        return self.others or self.others_before

    @property
    def end(self) -> float | None:
        """When it is certainly over."""
        seconds = self.length.seconds
        if self.opened is None or seconds is None:
            return self.ends_by
        end = self.opened[1] + seconds
        return end if self.ends_by is None or end <= self.ends_by + 1 else self.ends_by

    # ---- going ----------------------------------------------------------------------------------------------------

    def wait(self, now: float, tick: int) -> float:
        """Seconds until a request may go; 0.0: now."""
        if now - self.last_go > FORGOTTEN:
            self.under_way = self.going = 0
        self.pass_end(now, tick)
        if self.exhausted and self.end is not None:
            return self.end - now
        if self.company and now >= self.account_from:
            return 0.0 if self.stock and (self.exhausted or self._room()) else ASK_AGAIN
        if self.shared and not self.heard and now >= max(self.account_from, self.ask_at):
            return ASK_AGAIN
        if self.exhausted:
            pause = self.last_go + PROBE_EVERY - now
            return max(pause, ASK_AGAIN) if self.going or pause > 0 else 0.0
        if not self.heard:
            return ASK_AGAIN if self.going else 0.0  # one request finds out, alone
        fair = not self.shared or self.going < max(1, self._left() * self.share)
        return 0.0 if fair and self._room() else ASK_AGAIN

    def _left(self) -> float:
        return math.inf if self.limit is None else self.limit - self.used - self.lost

    def _room(self) -> bool:
        return self.under_way < self._left()

    def reserve(self, now: float) -> None:
        """A request goes."""
        self.under_way += 1
        self.going += 1
        self.stock = max(0, self.stock - 1)
        self.last_go = now

    def release(self, sent: Sent | None) -> None:
        """It is answered, or did not go."""
        self.under_way = max(0, self.under_way - 1)
        if sent is None or sent.tick >= self.begun:
            self.going = max(0, self.going - 1)

    # ---- windows that end and begin -------------------------------------------------------------------------------

    def begin(self, tick: int) -> None:
        """Another window: nothing is known of it, and what is under way may still count in the one before."""
        if self.others and self.used:
            self.share = (self.share + self.mine / self.used) / 2
        self.others_before, self.others = self.others, False
        self.opened_before, self.opened = self.opened, None
        self.begun, self.told = tick, tick
        self.heard = self.refused = self.full = self.news = self.seen = False
        self.used = self.lost = self.mine = self.going = self.strays = 0
        self.stock, self.opener = int(self.opener), False
        self.ends_by = self.number = self.number_over = None

    def pass_end(self, now: float, tick: int) -> None:
        """Notice that the window is over."""
        if self.end is not None and now >= self.end:
            self.begin(tick)

    # ---- answers --------------------------------------------------------------------------------------------------

    def lose(self, sent: Sent, tick: int) -> None:
        """No answer came, or one that tells no count."""
        if sent.tick >= self.begun:
            self.lost, self.lost_at = self.lost + 1, tick

    def pass_over(self, sent: Sent, tick: int) -> None:
        """An answer that does not speak of the limit."""
        if self.refused and sent.tick >= self.told:
            self.begin(sent.tick)
        if sent.tick >= self.begun:
            self.heard = True
        if self.limit is not None:
            self.lose(sent, tick)

    def count(
        self, limit: int, remaining: int, left: tuple[float, float] | None, sent: Sent, now: float, tick: int
    ) -> None:
        """An answer that was not refused.

        :param left: between how many and how many seconds the window still lasts, if the answer says it
        """
        if sent.tick < self.begun:
            self.strays += 1
            return  # too late to tell anything of this window; counts only grow, so the next answer tells it
        used, changed = max(0, limit - remaining), limit != self.limit
        # Left after a count came, a request counts more, unless another window has opened (or a lowered limit cuts it).
        if sent.tick >= self.told and used <= self.used and self.heard and not (changed and remaining == 0):
            over = self.number
            self.begin(sent.tick)
            self.number_over = over
        self.limit, first = limit, not self.heard
        self.heard = True
        self.mine += 1
        self.lost = 0 if sent.tick > self.lost_at else self.lost
        if used >= self.used:
            self.used, self.told = used, tick
        self.others = self.others or used > self._mine_at_most()
        if used == 1:
            self.opened, self.seen = (sent.at, now), True
        if left is not None and left[1] > 0:
            self._hint(left, sent, now)
        self.news = self.news or first or used == 1

    def _mine_at_most(self) -> int:
        return self.mine + self.under_way + self.lost + self.strays

    def _hint(self, left: tuple[float, float], sent: Sent, now: float) -> None:
        if self.opened is not None:
            self.length.learn(sent.at + left[0] - self.opened[1], now + left[1] - self.opened[0])
        end = now + left[1]
        self.ends_by = end if self.ends_by is None else min(end, self.ends_by)

    def refuse(self, left: tuple[float, float] | None, sent: Sent, now: float, tick: int) -> None:
        """A 429; ``left`` as it tells it."""
        if sent.tick < self.begun:
            return
        if self.heard or left is None or left[1] > _CLOSE:
            self.others = self.others or self._mine_at_most() < (self.limit or 0)
        elif self.opened is None:
            self.opened = self.opened_before  # the window before was not over
        self.heard = self.refused = self.news = self.seen = True
        self.told, self.used, self.stock = tick, max(self.used, self.limit or 0), 0
        if left is None:
            return
        left = min(left[0], LONGEST), min(left[1], LONGEST)
        if self.opened is not None:
            self.length.learn(sent.at + left[0] - self.opened[1], now + left[1] - self.opened[0])
        self.ends_by = now + max(left[1], PROBE_EVERY)
        if self.end is not None and self.end < max(now, sent.at + left[0]):
            self.opened = None  # it ends later than it was reckoned to

    # ---- a common account -----------------------------------------------------------------------------------------

    def ask(self, worker: str, want: int, now: float) -> Asking | None:
        """What is to be asked of it, or told; None if nothing is."""
        if now < self.account_from:
            return None
        if not self.company:
            want = 0
            if not self.shared or now < self.ask_at:
                return None
        else:
            want = 0 if self.stock or now < self.ask_at or (self.exhausted and self.end is not None) else want
            if not want and not self.news:
                return None
        opened, end, length = self.opened, self.end, self.length
        tells = self.seen or not self.company
        self.news = self.seen = False
        return Asking(
            worker,
            want,
            now,
            window=self.number,
            over=self.number_over,
            limit=self.limit,
            used=self.used + self.lost + (self.going if self.number is None else 0),
            heard=self.heard,
            refused=self.refused,
            opened_for=(now - opened[1], now - opened[0]) if tells and opened else None,
            ends_in=end - now if tells and end is not None else None,
            length=(length.more_than, length.at_most) if tells and length.seconds else None,
            seconds=length.seconds,
        )

    def adopt(self, granted: Granted, now: float, tick: int) -> None:
        """What it has answered."""
        self.company = granted.workers > 1
        if not self.company:
            self.ask_at = now + _LOOK_FOR_COMPANY
            return
        if self.number not in (None, granted.window):
            self.opener = False
            self.begin(tick)
        self.number, self.number_over = granted.window, None
        self.limit = granted.limit if self.limit is None else self.limit
        if granted.length is not None and not self.seen:
            self.length = Length(*granted.length)
        if granted.opened_for is not None and self.opened is None:
            self.opened = granted.at - granted.opened_for[1], granted.at - granted.opened_for[0]
        if granted.ends_in is not None and not self.seen:
            self.ends_by = granted.at + granted.ends_in
            if self.end is not None and self.end <= now:
                self.opened = None  # the account knows better
        self.stock += granted.places
        self.opener = granted.opens
        self.full = granted.full and granted.ends_in is not None and not self.stock
        self.ask_at = now if granted.places or self.full else now + 3 * ASK_AGAIN
