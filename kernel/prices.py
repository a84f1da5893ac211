"""Mark prices: one formula for whoever shows them and whoever liquidates by them.

All prices of one call are whole numbers of the same unit; 0 stands for a missing or stale one.
"""

from __future__ import annotations

from collections.abc import Sequence


def median_price(prices: Sequence[int]) -> int:
    """The median of those above 0, of an even number the mean of the middle two rounded down.

    0 when there are none.
    """
    known = sorted(price for price in prices if price > 0)
    if not known:
        return 0
    upper = len(known) // 2
    if len(known) % 2:
        return known[upper]
    return (known[upper - 1] + known[upper]) // 2


def mid_price(bid: int, ask: int) -> int:
    """The middle of a book's best prices, rounded down; 0 while a side is empty."""
    return (bid + ask) // 2 if bid > 0 and ask > 0 else 0


def mark_price(index: int, bid: int, ask: int, last: int) -> int:
    """Median of the index, the middle of our own book and its last trade; 0 while none is known."""
    return median_price((index, mid_price(bid, ask), last))
