"""Private streams: each account's changes, one message per log entry that touched it.

Every message says the account's message before it, so a reader knows that it missed nothing. What
readers have not taken is bounded twice: per reader (one that falls behind is ended with
SLOW_READER) and over all accounts (old changes are forgotten; then a resume gives a snapshot).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from tidebook.engine.v1 import order_pb2

from kernel.reasons import Reason, Refused
from services.engine.codec import set_time
from services.engine.encode import Encoder
from services.engine.encode_cfds import CfdEncoder
from services.engine.encode_positions import PositionEncoder
from services.engine.projection import Change, Projection

# Orders and fills remembered over all accounts, for those who resume.
REMEMBERED_ITEMS = 100_000
# Messages that may wait for one reader.
READER_QUEUE = 1000


class Remembered(NamedTuple):
    """A change of one account, and the position of the one before it."""

    account_id: int
    seq: int
    prev_seq: int
    time_ns: int
    change: Change
    # What it counts for against the bound.
    items: int


class Reader:
    """One open stream."""

    __slots__ = ("queue", "slow")

    def __init__(self) -> None:
        self.queue: asyncio.Queue[order_pb2.WatchAccountResponse] = asyncio.Queue(READER_QUEUE)
        self.slow = False


class AccountFeeds:
    """Publishes changes to the accounts' readers and remembers them for a while."""

    def __init__(
        self, projection: Projection, encoder: Encoder, *, remembered_items: int = REMEMBERED_ITEMS
    ) -> None:
        self._projection = projection
        self._encoder = encoder
        self._cfds = CfdEncoder(projection, encoder.texts)
        self._positions = PositionEncoder(projection, encoder.texts)
        self._most = remembered_items
        self._items = 0
        self._all: deque[Remembered] = deque()
        self._by_account: dict[int, deque[Remembered]] = {}
        self._last_seq: dict[int, int] = {}
        self._readers: dict[int, set[Reader]] = {}

    def publish(self, seq: int, time_ns: int, changes: dict[int, Change]) -> None:
        """Remember what a durable entry changed, and tell those who watch."""
        for account_id, change in changes.items():
            prev_seq = self._last_seq.get(account_id, 0)
            remembered = Remembered(account_id, seq, prev_seq, time_ns, change, 1 + change.told())
            self._last_seq[account_id] = seq
            self._remember(remembered)
            readers = self._readers.get(account_id)
            if readers:
                # Encoded once, however many watch.
                message = self._delta([remembered], prev_seq=remembered.prev_seq)
                for reader in tuple(readers):
                    _offer(reader, message)

    def positions(self) -> dict[int, int]:
        """Account id -> the log position of its newest message, for a snapshot."""
        return self._last_seq

    def restore(self, positions: dict[int, int]) -> None:
        """Go on from a snapshot's positions; the changes before them are not remembered."""
        self._last_seq.update(positions)

    async def watch(
        self, account_id: int, resume_from_seq: int
    ) -> AsyncGenerator[order_pb2.WatchAccountResponse, None]:
        """The account's messages after a position, or from a snapshot on, for ever.

        Raises `Refused(SLOW_READER)` when the reader has fallen too far behind.
        """
        reader = Reader()
        readers = self._readers.setdefault(account_id, set())
        readers.add(reader)
        try:
            # No await in between: nothing can be published between this and the queue.
            first = self._first(account_id, resume_from_seq)
            if first is not None:
                yield first
            while True:
                if reader.slow and reader.queue.empty():
                    raise Refused(
                        Reason.SLOW_READER, "too many changes wait; resume from your last seq"
                    )
                yield await reader.queue.get()
        finally:
            readers.discard(reader)
            if not readers and self._readers.get(account_id) is readers:
                del self._readers[account_id]

    def _first(
        self, account_id: int, resume_from_seq: int
    ) -> order_pb2.WatchAccountResponse | None:
        """What a new reader has to know before the changes to come."""
        if resume_from_seq == 0:
            return self._snapshot(account_id)
        if resume_from_seq == self._last_seq.get(account_id, 0):
            return None
        missed = [
            remembered
            for remembered in self._by_account.get(account_id, ())
            if remembered.seq > resume_from_seq
        ]
        if missed and missed[0].prev_seq == resume_from_seq:
            return self._delta(missed, prev_seq=resume_from_seq)
        return self._snapshot(account_id)

    def _snapshot(self, account_id: int) -> order_pb2.WatchAccountResponse:
        projection, encoder = self._projection, self._encoder
        balances = projection.balances_of(account_id)
        message = order_pb2.WatchAccountResponse(
            seq=self._last_seq.get(account_id, 0),
            snapshot=True,
            orders=encoder.orders(projection.open_orders_of(account_id)),
            balances=encoder.balances(balances, balances),
            positions=self._positions.positions(projection.margin.open_of(account_id)),
            cfds=self._cfds.cfds(projection.cfds.open_of(account_id)),
        )
        set_time(message.time, projection.time_ns)
        return message

    def _delta(self, missed: list[Remembered], *, prev_seq: int) -> order_pb2.WatchAccountResponse:
        """Consecutive changes of an account as one message: every fill, orders as they are now."""
        encoder = self._encoder
        account_id = missed[0].account_id
        message = order_pb2.WatchAccountResponse(seq=missed[-1].seq, prev_seq=prev_seq)
        set_time(message.time, missed[-1].time_ns)
        orders = {}
        cfds = {}
        positions = {}
        asset_ids: set[int] = set()
        for remembered in missed:
            orders.update(remembered.change.orders)
            cfds.update(remembered.change.cfds)
            positions.update(remembered.change.positions)
            asset_ids |= remembered.change.asset_ids
            message.fills.extend(
                encoder.fill(trade, account_id, remembered.seq, remembered.time_ns)
                for trade in remembered.change.trades
            )
            message.liquidations.extend(map(self._cfds.receipt, remembered.change.receipts))
        message.orders.extend(encoder.orders(orders[order_id] for order_id in sorted(orders)))
        message.positions.extend(
            self._positions.positions(positions[market_id] for market_id in sorted(positions))
        )
        message.cfds.extend(self._cfds.cfds(cfds[cfd_id] for cfd_id in sorted(cfds)))
        balances = self._projection.balances_of(account_id)
        message.balances.extend(encoder.balances(balances, asset_ids))
        return message

    def _remember(self, remembered: Remembered) -> None:
        self._all.append(remembered)
        self._by_account.setdefault(remembered.account_id, deque()).append(remembered)
        self._items += remembered.items
        while self._items > self._most:
            oldest = self._all.popleft()
            self._items -= oldest.items
            of_account = self._by_account[oldest.account_id]
            of_account.popleft()
            if not of_account:
                del self._by_account[oldest.account_id]


def _offer(reader: Reader, message: order_pb2.WatchAccountResponse) -> None:
    if reader.slow:
        # A later message would leave a gap behind the one that did not fit.
        return
    try:
        reader.queue.put_nowait(message)
    except asyncio.QueueFull:
        reader.slow = True
