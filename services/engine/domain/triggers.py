"""Prices that fire something when they are reached: stops, liquidations, stop losses, take profits.

One heap per direction. Removing only forgets the price under its id, and what was forgotten is
dropped when it comes up, so that everything but a lookup at the top costs O(log n) and a price that
reaches nothing costs nothing.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Triggers:
    """Trigger prices by id, in ticks; of those that one price reaches, the first reached comes
    first, then the lowest id.

    `falling` fires at its price or below, otherwise at its price or above.
    """

    __slots__ = ("_heap", "_sign", "prices")

    def __init__(self, *, falling: bool) -> None:
        self._sign = -1 if falling else 1
        # (price x sign, id), the first to be reached on top; entries that `prices` does not
        # confirm are dead.
        self._heap: list[tuple[int, int]] = []
        self.prices: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.prices)

    def set(self, trigger_id: int, price_ticks: int) -> None:
        """Add a trigger, or move it."""
        self.prices[trigger_id] = price_ticks
        heap = self._heap
        heappush(heap, (price_ticks * self._sign, trigger_id))
        if len(heap) > 64 and len(heap) > 2 * len(self.prices):
            heap = [(price * self._sign, known) for known, price in self.prices.items()]
            heapify(heap)
            self._heap = heap

    def drop(self, trigger_id: int) -> None:
        """Forget a trigger, if it is there."""
        self.prices.pop(trigger_id, 0)

    def first_reached(self, price_ticks: int) -> int:
        """Id of the first trigger that this price reaches; 0 if it reaches none."""
        heap = self._heap
        key = price_ticks * self._sign
        while heap:
            trigger_key, trigger_id = heap[0]
            if self.prices.get(trigger_id, 0) * self._sign != trigger_key:
                heappop(heap)
            elif trigger_key > key:
                return 0
            else:
                return trigger_id
        return 0


class Watch:
    """The stops that watch one price of a market, by order id.

    `highs` and `lows` have trailing stops a second time, by the first price that moves their
    trigger.
    """

    __slots__ = ("falling", "highs", "lows", "rising")

    def __init__(self) -> None:
        self.rising = Triggers(falling=False)
        self.falling = Triggers(falling=True)
        self.highs = Triggers(falling=False)
        self.lows = Triggers(falling=True)

    def __len__(self) -> int:
        return len(self.rising) + len(self.falling)

    def drop(self, order_id: int) -> None:
        """Forget a stop, if it is there."""
        self.rising.drop(order_id)
        self.falling.drop(order_id)
        self.highs.drop(order_id)
        self.lows.drop(order_id)
