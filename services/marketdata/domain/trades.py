"""Trades of our own order books, and the newest ones of each market."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

RECENT_TRADES = 2_000


@dataclass(frozen=True, slots=True)
class PublicTrade:
    """A trade as everybody may see it: ticks, lots, quote units, Unix nanoseconds, log position."""

    market: str
    trade_id: int
    price_ticks: int
    quantity_lots: int
    notional_units: int
    taker_side: int
    time_ns: int
    seq: int


class RecentTrades:
    """The newest trades of one market, oldest first."""

    def __init__(self) -> None:
        self._trades: deque[PublicTrade] = deque(maxlen=RECENT_TRADES)
        # Every trade with a log position above this one is here.
        self._complete_after_seq = 0
        self.last_trade_id = 0

    def restore(self, trades: Iterable[PublicTrade], complete_after_seq: int) -> None:
        """Begin with these trades, oldest first."""
        self._complete_after_seq = complete_after_seq
        for trade in trades:
            self.add(trade)

    def add(self, trade: PublicTrade) -> bool:
        """Keep a trade; False when it was seen before."""
        if trade.trade_id <= self.last_trade_id:
            return False
        if len(self._trades) == RECENT_TRADES:
            self._complete_after_seq = self._trades[0].seq
        self._trades.append(trade)
        self.last_trade_id = trade.trade_id
        return True

    @property
    def last(self) -> PublicTrade | None:
        """The newest trade."""
        return self._trades[-1] if self._trades else None

    def after(self, seq: int) -> list[PublicTrade] | None:
        """Every trade after a log position, oldest first; None when they are not all here."""
        if seq < self._complete_after_seq:
            return None
        return [trade for trade in self._trades if trade.seq > seq]

    def newest(self, count: int, before_trade_id: int = 0) -> list[PublicTrade] | None:
        """The newest trades, newest first, of those with an id below `before_trade_id` (0: all).

        None when `count` of them are wanted and fewer are here, though there were more once.
        """
        found: list[PublicTrade] = []
        for trade in reversed(self._trades):
            if len(found) == count:
                return found
            if not before_trade_id or trade.trade_id < before_trade_id:
                found.append(trade)
        oldest = self._trades[0].trade_id if self._trades else self.last_trade_id + 1
        return found if len(found) == count or oldest == 1 else None
