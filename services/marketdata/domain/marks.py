"""A market's mark price and what it is made of, in ticks; 0 stands for what is missing or stale."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.markets import Market
from kernel.prices import mark_price, mid_price
from services.marketdata.domain.book import OrderBook
from services.marketdata.domain.prices import IndexPrice, in_ticks


@dataclass(frozen=True, slots=True)
class Marks:
    """Inputs and outcome of the mark price."""

    index: int
    bid: int
    ask: int
    last: int

    @property
    def mid(self) -> int:
        return mid_price(self.bid, self.ask)

    @property
    def mark(self) -> int:
        return mark_price(self.index, self.bid, self.ask, self.last)


def marks_of(market: Market, book: OrderBook, last: int, index: IndexPrice | None) -> Marks:
    """A market's prices now; `last` is its last trade's."""
    bid, ask = book.bids.best(), book.asks.best()
    return Marks(
        index=0 if index is None or index.stale else in_ticks(market, index.price),
        bid=bid[0] if bid else 0,
        ask=ask[0] if ask else 0,
        last=last,
    )
