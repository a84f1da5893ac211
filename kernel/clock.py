"""Time as a port, so that tests and replays can say what time it is."""

from __future__ import annotations

import time
from typing import Final, Protocol

NS_PER_SECOND: Final = 1_000_000_000


class Clock(Protocol):
    """Where a service gets the time from."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, by_ns: int) -> None:
        self._now_ns += by_ns
