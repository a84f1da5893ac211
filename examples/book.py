"""A client's book: kept from a snapshot and its deltas, and never wrong without knowing it.

    book = BookClient()
    for update in stream:            # tidebook.marketdata.v1.BookUpdate
        try:
            book.take(update)
        except OutOfStep:
            ...                      # subscribe anew: the stream begins with a snapshot

Nothing here is special to Tidebook but `take`: any feed that numbers its updates can be followed
with `load` and `change`.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from decimal import Decimal

from tidebook.marketdata.v1 import marketdata_pb2

CHECKSUM_LEVELS = 25

# Price and quantity as they were sent.
Level = tuple[str, str]


class OutOfStep(Exception):
    """Something was missed or is not what it should be: only a snapshot helps."""


class _Side:
    """Levels of one side, best first."""

    def __init__(self, sign: int) -> None:
        self._sign = sign
        # Price times sign, so that the best comes first on both sides.
        self._order: list[Decimal] = []
        self._levels: dict[Decimal, Level] = {}

    def clear(self) -> None:
        self._order.clear()
        self._levels.clear()

    def merge(self, levels: Iterable[Level]) -> None:
        for price, quantity in levels:
            key = Decimal(price) * self._sign
            if Decimal(quantity):
                if key not in self._levels:
                    insort(self._order, key)
                self._levels[key] = (price, quantity)
            elif self._levels.pop(key, None) is not None:
                del self._order[bisect_left(self._order, key)]

    def best(self) -> Decimal | None:
        return self._order[0] * self._sign if self._order else None

    def top(self, depth: int) -> list[Level]:
        return [self._levels[key] for key in self._order[:depth]]


class BookClient:
    """One market's book. `seq` is the position it is true at, None while it is not to be used."""

    def __init__(self) -> None:
        self.seq: int | None = None
        self._bids, self._asks = _Side(-1), _Side(1)

    def take(self, update: marketdata_pb2.BookUpdate) -> bool:
        """The next update; False when it is an old one that came again. Raises `OutOfStep`."""
        bids = [(level.price, level.quantity) for level in update.bids]
        asks = [(level.price, level.quantity) for level in update.asks]
        if update.snapshot:
            if self.seq is not None and update.seq < self.seq:
                return False
            self.load(update.seq, bids, asks)
        elif not self.change(update.prev_seq, update.seq, bids, asks):
            return False
        if update.HasField("checksum"):
            self.check(update.checksum)
        return True

    def load(self, seq: int, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Begin anew with a snapshot."""
        self._bids.clear()
        self._asks.clear()
        self._bids.merge(bids)
        self._asks.merge(asks)
        self.seq = seq

    def change(self, prev_seq: int, seq: int, bids: Iterable[Level], asks: Iterable[Level]) -> bool:
        """Apply a delta from `prev_seq` to `seq`; False when that is past. Raises `OutOfStep`."""
        if self.seq is None:
            raise OutOfStep("there is no snapshot yet")
        if seq <= self.seq:
            return False
        if prev_seq != self.seq:
            self._fail(f"update {prev_seq} -> {seq} after {self.seq}")
        self._bids.merge(bids)
        self._asks.merge(asks)
        self.seq = seq
        best_bid, best_ask = self._bids.best(), self._asks.best()
        if best_bid is not None and best_ask is not None and best_bid >= best_ask:
            self._fail(f"the book is crossed: {best_bid} >= {best_ask}")
        return True

    def check(self, checksum: int) -> None:
        """Compare with the sender's checksum. Raises `OutOfStep`."""
        if checksum != self.checksum():
            self._fail(f"the checksum is {checksum}, of this book {self.checksum()}")

    def levels(self, depth: int) -> tuple[list[Level], list[Level]]:
        """The best `depth` bids and asks, best first."""
        return self._bids.top(depth), self._asks.top(depth)

    def checksum(self) -> int:
        """Signed CRC-32 of `bid:qty:ask:qty:...` over the best 25 levels, alternating; a side that
        has ended is skipped. Prices and quantities as they were sent.
        """
        bids, asks = self.levels(CHECKSUM_LEVELS)
        parts: list[str] = []
        for number in range(max(len(bids), len(asks))):
            for side in (bids, asks):
                if number < len(side):
                    parts += side[number]
        unsigned = zlib.crc32(":".join(parts).encode())
        return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned

    def _fail(self, why: str) -> None:
        self.seq = None
        raise OutOfStep(why)
