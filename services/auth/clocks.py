"""The kernel's clock as the date and time that databases and contracts speak."""

from __future__ import annotations

import datetime as dt

from kernel.clock import Clock

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def utc(clock: Clock) -> dt.datetime:
    """Now, in UTC, to the microsecond."""
    return _EPOCH + dt.timedelta(microseconds=clock.now_ns() // 1000)


def now_ms(clock: Clock) -> int:
    """Now, in milliseconds since 1970."""
    return clock.now_ns() // 1_000_000


def from_ms(milliseconds: int) -> dt.datetime:
    """Milliseconds since 1970 -> UTC."""
    return _EPOCH + dt.timedelta(milliseconds=milliseconds)
