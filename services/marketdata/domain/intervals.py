"""Candle intervals: where each begins and ends. All in UTC and whole seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# 1970-01-05 was the first Monday.
_FIRST_MONDAY = 4 * _DAY


class Interval(IntEnum):
    """Intervals; the numbers are those of `tidebook.marketdata.v1.CandleInterval`."""

    S1 = 1
    M1 = 2
    M3 = 3
    M5 = 4
    M15 = 5
    M30 = 6
    H1 = 7
    H2 = 8
    H4 = 9
    H6 = 10
    H8 = 11
    H12 = 12
    D1 = 13
    D3 = 14
    W1 = 15
    MO1 = 16


# Seconds of every interval that has a fixed length, counted from 1970-01-01 (weeks from a Monday).
SECONDS: dict[Interval, int] = {
    Interval.S1: 1,
    Interval.M1: _MINUTE,
    Interval.M3: 3 * _MINUTE,
    Interval.M5: 5 * _MINUTE,
    Interval.M15: 15 * _MINUTE,
    Interval.M30: 30 * _MINUTE,
    Interval.H1: _HOUR,
    Interval.H2: 2 * _HOUR,
    Interval.H4: 4 * _HOUR,
    Interval.H6: 6 * _HOUR,
    Interval.H8: 8 * _HOUR,
    Interval.H12: 12 * _HOUR,
    Interval.D1: _DAY,
    Interval.D3: 3 * _DAY,
    Interval.W1: 7 * _DAY,
}


def span_of(interval: Interval, time_s: int) -> tuple[int, int]:
    """(begin, end) of the candle that the second `time_s` falls into; the end is not part of it."""
    if interval is Interval.MO1:
        begin = datetime.fromtimestamp(time_s, UTC).replace(day=1, hour=0, minute=0, second=0)
        years, month = divmod(begin.month, 12)
        end = begin.replace(year=begin.year + years, month=month + 1)
        return int(begin.timestamp()), int(end.timestamp())
    length = SECONDS[interval]
    offset = _FIRST_MONDAY if interval is Interval.W1 else 0
    begin_s = time_s - (time_s - offset) % length
    return begin_s, begin_s + length
