"""The last 24 hours of one market, from its minute candles.

The window is the minute now and the 1,439 before it; it moves on with the clock, minute by minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from services.marketdata.domain.candles import Candle

WINDOW_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class DayFigures:
    """Prices in ticks, `volume` in lots, `quote_volume` in quote units; without trades all 0."""

    open: int = 0
    high: int = 0
    low: int = 0
    last: int = 0
    volume: int = 0
    quote_volume: int = 0
    trades: int = 0

    @property
    def change(self) -> int:
        return self.last - self.open

    @property
    def change_bps(self) -> int:
        """Change in basis points of the open, cut towards zero."""
        if not self.open:
            return 0
        size = abs(self.change) * 10_000 // self.open
        return size if self.change >= 0 else -size


class DayWindow:
    """Minute candles of the last 24 hours; the newest one may still grow."""

    def __init__(self) -> None:
        self._minutes: deque[Candle] = deque()

    def restore(self, minutes: Iterable[Candle]) -> None:
        """Begin with these minutes, oldest first."""
        self._minutes = deque(minutes)

    def take(self, minute: Candle) -> None:
        """A minute candle changed; the same one or a later one each time."""
        if not self._minutes or self._minutes[-1].open_s != minute.open_s:
            self._minutes.append(minute)
        else:
            self._minutes[-1] = minute

    def trim(self, now_s: int) -> bool:
        """Forget what is older than 24 hours; True if anything was."""
        first_s = now_s - now_s % 60 + 60 - WINDOW_SECONDS
        count = len(self._minutes)
        while self._minutes and self._minutes[0].open_s < first_s:
            self._minutes.popleft()
        return len(self._minutes) != count

    def figures(self) -> DayFigures:
        """The figures of the window."""
        minutes = self._minutes
        if not minutes:
            return DayFigures()
        return DayFigures(
            open=minutes[0].open,
            high=max(minute.high for minute in minutes),
            low=min(minute.low for minute in minutes),
            last=minutes[-1].close,
            volume=sum(minute.volume for minute in minutes),
            quote_volume=sum(minute.quote_volume for minute in minutes),
            trades=sum(minute.trades for minute in minutes),
        )
