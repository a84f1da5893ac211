"""External prices: what sources say, and what we know of each market because of it.

Prices and quantities are integers of 10**-8 (`FEED_DECIMALS`), whatever the source. Times are
nanoseconds since 1970 UTC: `time_ns` is the source's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

FEED_DECIMALS = 8


class FeedKind(IntEnum):
    """Kinds of source; the numbers are those of `tidebook.marketdata.v1.FeedKind`."""

    BACKPACK = 1
    REPLAY = 2
    SYNTHETIC = 3


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask of a market at the source."""

    market: str
    bid: int
    ask: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class FeedTrade:
    """A trade of a market at the source."""

    market: str
    price: int
    quantity: int
    time_ns: int


FeedEvent = Quote | FeedTrade


@dataclass(frozen=True, slots=True)
class ExternalPrice:
    """What is known of a market outside; 0 stands for an unknown bid, ask or last."""

    market: str
    kind: FeedKind
    simulated: bool
    bid: int = 0
    ask: int = 0
    last: int = 0
    source_time_ns: int = 0
    receive_time_ns: int = 0
    stale: bool = False
    # Counts the prices of this market, from 1.
    seq: int = 0

    @property
    def price(self) -> int:
        """Middle of bid and ask (rounded down to 10**-8), else the last trade."""
        return (self.bid + self.ask) // 2 if self.bid and self.ask else self.last


class PriceBoard:
    """The external price of every market."""

    def __init__(self) -> None:
        self._prices: dict[str, ExternalPrice] = {}

    def get(self, market: str) -> ExternalPrice | None:
        """The price now; None before the first."""
        return self._prices.get(market)

    def __iter__(self) -> Iterator[ExternalPrice]:
        return iter(self._prices.values())

    def apply(
        self, events: Iterable[FeedEvent], kind: FeedKind, simulated: bool, now_ns: int
    ) -> list[ExternalPrice]:
        """Take events of one source; returns the price of each market they changed."""
        changed: dict[str, ExternalPrice] = {}
        for event in events:
            before = self._prices.get(event.market)
            if before is None or before.kind is not kind:
                # Nothing of another source is kept beside this one's prices.
                seq = before.seq if before else 0
                before = ExternalPrice(event.market, kind, simulated, seq=seq)
            now = replace(
                before,
                source_time_ns=event.time_ns,
                receive_time_ns=now_ns,
                stale=False,
                seq=before.seq + (event.market not in changed),
            )
            if isinstance(event, Quote):
                now = replace(now, bid=event.bid, ask=event.ask)
            else:
                now = replace(now, last=event.price)
            self._prices[event.market] = changed[event.market] = now
        return list(changed.values())

    def mark_stale(self, now_ns: int, after_ns: int) -> list[ExternalPrice]:
        """Mark what arrived longer than `after_ns` ago; returns those that were not marked yet."""
        marked = [
            replace(price, stale=True, seq=price.seq + 1)
            for price in self._prices.values()
            if not price.stale and now_ns - price.receive_time_ns > after_ns
        ]
        self._prices.update((price.market, price) for price in marked)
        return marked
