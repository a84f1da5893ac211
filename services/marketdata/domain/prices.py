"""External prices: what sources say of a pair of assets, and the index that follows from it.

One pair such as "BTC_USDC" serves every market of it, whatever its kind. Prices and quantities are
integers of 10**-8 (`FEED_DECIMALS`), whatever the source. Times are nanoseconds since 1970 UTC:
`time_ns` is the source's own.

The index of a pair is the median of its sources. Which of them count:
- only fresh ones, and simulated ones only while no live one is fresh;
- of those, none that is further than `OUTLIER_BPS` from their median; when that leaves none (two
  that disagree), the one that was named first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from kernel.markets import Market
from kernel.prices import median_price

FEED_DECIMALS = 8
# How far from the median of all a source may be, in basis points, to count.
OUTLIER_BPS = 100
_BPS = 10_000


class FeedKind(IntEnum):
    """Kinds of source; the numbers are those of `tidebook.marketdata.v1.FeedKind`."""

    BACKPACK = 1
    REPLAY = 2
    SYNTHETIC = 3


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask of a pair at the source."""

    pair: str
    bid: int
    ask: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class FeedTrade:
    """A trade of a pair at the source."""

    pair: str
    price: int
    quantity: int
    time_ns: int


FeedEvent = Quote | FeedTrade


@dataclass(frozen=True, slots=True)
class Source:
    """Who says a price. `rank`: a lower one was named earlier and is believed rather."""

    name: str
    kind: FeedKind
    simulated: bool
    rank: int = 0


@dataclass(frozen=True, slots=True)
class SourcePrice:
    """What one source says of a pair; 0 stands for an unknown bid, ask or last."""

    source: Source
    bid: int = 0
    ask: int = 0
    last: int = 0
    source_time_ns: int = 0
    receive_time_ns: int = 0
    stale: bool = False

    @property
    def price(self) -> int:
        """Middle of bid and ask (rounded down to 10**-8), else the last trade."""
        return (self.bid + self.ask) // 2 if self.bid and self.ask else self.last


@dataclass(frozen=True, slots=True)
class IndexPrice:
    """A pair's price outside, and what it was made of; 0 stands for an unknown bid, ask or last."""

    pair: str
    price: int
    bid: int
    ask: int
    last: int
    # The first of those that count.
    kind: FeedKind
    simulated: bool
    source_time_ns: int
    receive_time_ns: int
    # No source is fresh: the prices are the last ones known.
    stale: bool
    # Counts the prices of this pair, from 1.
    seq: int
    # Every source in its rank, and those of them that count.
    inputs: tuple[SourcePrice, ...]
    used: tuple[SourcePrice, ...]


def one_per_pair(markets: Iterable[Market]) -> dict[str, Market]:
    """Pair -> the first market of it."""
    found: dict[str, Market] = {}
    for market in markets:
        found.setdefault(market.pair, market)
    return found


def in_ticks(market: Market, price: int) -> int:
    """An external price in a market's ticks, rounded down."""
    ticks: int = price * 10**market.quote.decimals // (10**FEED_DECIMALS * market.tick_size_units)
    return ticks


def counting(inputs: Sequence[SourcePrice]) -> tuple[SourcePrice, ...]:
    """Those of a pair's sources, in their rank, that its index is the median of."""
    fresh = [one for one in inputs if not one.stale and one.price]
    known = [one for one in fresh if not one.source.simulated] or fresh
    middle = median_price([one.price for one in known])
    near = [one for one in known if abs(one.price - middle) * _BPS <= OUTLIER_BPS * middle]
    return tuple(near or known[:1])


class PriceBoard:
    """What every source says of every pair, and the index of each."""

    def __init__(self) -> None:
        self._inputs: dict[str, dict[str, SourcePrice]] = {}
        self._index: dict[str, IndexPrice] = {}

    def get(self, pair: str) -> IndexPrice | None:
        """The index now; None before the first price."""
        return self._index.get(pair)

    def __iter__(self) -> Iterator[IndexPrice]:
        return iter(self._index.values())

    def apply(self, events: Iterable[FeedEvent], source: Source, now_ns: int) -> list[IndexPrice]:
        """Take events of one source; returns the index of each pair they are of."""
        changed: dict[str, None] = {}
        for event in events:
            inputs = self._inputs.setdefault(event.pair, {})
            now = replace(
                inputs.get(source.name, SourcePrice(source)),
                source_time_ns=event.time_ns,
                receive_time_ns=now_ns,
                stale=False,
            )
            if isinstance(event, Quote):
                now = replace(now, bid=event.bid, ask=event.ask)
            else:
                now = replace(now, last=event.price)
            inputs[source.name] = now
            changed[event.pair] = None
        return [self._update(pair) for pair in changed]

    def mark_stale(self, now_ns: int, after_ns: int) -> list[IndexPrice]:
        """Mark what arrived longer than `after_ns` ago; returns the indexes it changes."""
        changed: dict[str, None] = {}
        for pair, inputs in self._inputs.items():
            for name, one in inputs.items():
                if not one.stale and now_ns - one.receive_time_ns > after_ns:
                    inputs[name] = replace(one, stale=True)
                    changed[pair] = None
        return [self._update(pair) for pair in changed]

    def leads(self, source: Source, pair: str) -> bool:
        """Whether a source is the first of those that count: its trades make the candles."""
        index = self._index.get(pair)
        return index is not None and index.used[:1] != () and index.used[0].source == source

    def _update(self, pair: str) -> IndexPrice:
        inputs = tuple(sorted(self._inputs[pair].values(), key=lambda one: one.source.rank))
        used = counting(inputs)
        before = self._index.get(pair)
        seq = before.seq + 1 if before else 1
        if used:
            first = used[0].source
            index = IndexPrice(
                pair,
                price=median_price([one.price for one in used]),
                bid=median_price([one.bid for one in used]),
                ask=median_price([one.ask for one in used]),
                last=max(used, key=lambda one: (one.last > 0, one.source_time_ns)).last,
                kind=first.kind,
                simulated=first.simulated,
                source_time_ns=max(one.source_time_ns for one in used),
                receive_time_ns=max(one.receive_time_ns for one in used),
                stale=False,
                seq=seq,
                inputs=inputs,
                used=used,
            )
        else:
            # A pair is only here because a source gave a price of it.
            assert before is not None
            index = replace(before, stale=True, seq=seq, inputs=inputs, used=())
        self._index[pair] = index
        return index
