"""What the page has read lately, so that many visitors cost the ledger's database no more than one."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class _Entry:
    reading: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    error: Exception | None = None
    good_until: float = float("-inf")

    @property
    def is_good(self) -> bool:
        return time.monotonic() < self.good_until


class Cache:
    """Values that one visitor reads and others share. Errors are shared, too.

    :param seconds: how long a value is good, or `RATIO` times as long as the reading took, if that is longer
    :param size: how many values are kept
    """

    RATIO = 10

    def __init__(self, seconds: float, size: int = 64) -> None:
        self.seconds = seconds
        self._size = size
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, read: Callable[[], T]) -> T:
        """The value with this name: as it was read lately, or read now by one visitor while others wait for it."""
        entry = self._entry(name)
        with entry.reading:
            if not entry.is_good:
                self._read(entry, read)
            if entry.error is not None:
                raise entry.error
            value: T = entry.value
            return value

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._entries.clear()

    def _entry(self, name: Hashable) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            self._entries.move_to_end(name)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry

    def _read(self, entry: _Entry, read: Callable[[], Any]) -> None:
        began = time.monotonic()
        entry.value, entry.error = None, None
        try:
            entry.value = read()
        except Exception as error:  # noqa: BLE001 - raised to every visitor
            entry.error = error.with_traceback(None)
        took = time.monotonic() - began
        entry.good_until = time.monotonic() + max(self.seconds, self.RATIO * took) if self.seconds else began
