"""Price bands: how far from the index the price of an order may be.

They hold while the index is fresh; without one every price of the market is allowed.
"""

from __future__ import annotations

from kernel.reasons import Reason, Refused
from services.engine.domain.book import Book
from services.engine.domain.constants import SIDE_BUY


def price_band(index_ticks: int, bps: int, most_ticks: int) -> tuple[int, int]:
    """The lowest and the highest price within `bps` of the index, rounded towards it."""
    lowest = max(-(-index_ticks * (10_000 - bps) // 10_000), 1)
    return lowest, min(index_ticks * (10_000 + bps) // 10_000, most_ticks)


def band_of(book: Book, now_ns: int) -> tuple[int, int]:
    """What a market allows now."""
    config = book.config
    if config.price_band_bps == 0 or not book.has_fresh_price(now_ns):
        return 1, config.max_price_ticks
    return price_band(book.index_ticks, config.price_band_bps, config.max_price_ticks)


def is_outside(book: Book, price_ticks: int, now_ns: int) -> bool:
    """Whether a price is not allowed now."""
    lowest, highest = band_of(book, now_ns)
    return not lowest <= price_ticks <= highest


def check_band(book: Book, price_ticks: int, now_ns: int) -> None:
    """Refuse a limit price that is not allowed now."""
    if is_outside(book, price_ticks, now_ns):
        raise Refused(Reason.PRICE_OUTSIDE_BAND, field="price_ticks")


def drawn_in(book: Book, side: int, price_ticks: int, now_ns: int) -> int:
    """A protection price, no further away than what is allowed now."""
    lowest, highest = band_of(book, now_ns)
    return min(price_ticks, highest) if side == SIDE_BUY else max(price_ticks, lowest)
