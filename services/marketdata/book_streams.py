"""Book streams: what readers of one kind of view have been told, and what they are told next.

A view is one market at one depth and rate. All its readers get the same updates, built once. A
reader that falls behind gets a new snapshot in place of the updates it has not taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from google.protobuf.message import Message
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from services.marketdata import codec
from services.marketdata.domain.book import Level, OrderChange
from services.marketdata.domain.depth import changed_levels
from services.marketdata.hub import Mailbox
from services.marketdata.projection import Applied, MarketState, Projection

# Updates of one market that wait for a reader before a snapshot takes their place.
UPDATES_MAX = 200
_TICK_SECONDS = 0.1
# Ticks between two updates of a timed view.
_TICKS = {pb.BOOK_RATE_UNSPECIFIED: 1, pb.BOOK_RATE_100MS: 1, pb.BOOK_RATE_1000MS: 10}


class View(Protocol):
    """What one kind of reader sees of a market."""

    readers: dict[BookSubscription, None]

    def snapshot(self) -> Message:
        """Everything, as of the last update that readers were given."""
        ...


class LevelView:
    """A market's best levels, as its readers have been told."""

    def __init__(self, state: MarketState, depth: int, checksum: bool, projection: Projection):
        self.readers: dict[BookSubscription, None] = {}
        self.dirty = False
        self._state = state
        self._depth = depth
        self._checksum = checksum
        self._seq = projection.book_seq
        self._time_ns = projection.book_time_ns
        self._bids = state.book.bids.top(depth)
        self._asks = state.book.asks.top(depth)
        self._snapshot: pb.BookUpdate | None = None

    def snapshot(self) -> pb.BookUpdate:
        if self._snapshot is None:
            self._snapshot = self._message(self._bids, self._asks)
        return self._snapshot

    def advance(self, seq: int, time_ns: int) -> None:
        """Tell the readers what has changed since the last time, if anything has."""
        self.dirty = False
        bids, asks = self._state.book.bids.top(self._depth), self._state.book.asks.top(self._depth)
        new_bids, new_asks = changed_levels(self._bids, bids), changed_levels(self._asks, asks)
        if not new_bids and not new_asks:
            return
        prev_seq = self._seq
        self._seq, self._time_ns = seq, time_ns
        self._bids, self._asks = bids, asks
        self._snapshot = None
        update = self._message(new_bids, new_asks, prev_seq)
        for reader in self.readers:
            reader.offer(self, update)

    def _message(
        self, bids: Sequence[Level], asks: Sequence[Level], prev_seq: int | None = None
    ) -> pb.BookUpdate:
        """An update after `prev_seq`, or without it a snapshot."""
        message = codec.book_to_proto(self._state.market, bids, asks, self._time_ns)
        message.seq = self._seq
        message.prev_seq = prev_seq or 0
        message.snapshot = prev_seq is None
        if self._checksum:
            message.checksum = codec.book_checksum(self._state.market, self._bids, self._asks)
        return message


class OrderView:
    """A market's orders one by one; its readers are told of every entry."""

    def __init__(self, state: MarketState, projection: Projection) -> None:
        self.readers: dict[BookSubscription, None] = {}
        self._state = state
        self._seq = projection.book_seq
        self._snapshot: pb.OrderBookUpdate | None = None

    def snapshot(self) -> pb.OrderBookUpdate:
        if self._snapshot is None:
            book = self._state.book
            self._snapshot = pb.OrderBookUpdate(
                market=self._state.market.name,
                seq=self._seq,
                snapshot=True,
                orders=[
                    codec.book_order_to_proto(self._state.market, order, order.lots)
                    for side in (book.bids, book.asks)
                    for order in side.orders()
                ],
            )
        return self._snapshot

    def advance(self, seq: int, changes: Iterable[OrderChange]) -> None:
        """Tell the readers of these changed orders."""
        update = pb.OrderBookUpdate(market=self._state.market.name, seq=seq, prev_seq=self._seq)
        for change in changes:
            order = change.order
            if change.was_shown and (change.queued or not order.lots):
                # Out first: readers put what comes in at the back of its queue.
                update.orders.append(codec.book_order_to_proto(self._state.market, order, 0))
            if order.lots:
                update.orders.append(
                    codec.book_order_to_proto(self._state.market, order, order.lots)
                )
        if not update.orders:
            return
        self._seq = seq
        self._snapshot = None
        for reader in self.readers:
            reader.offer(self, update)


class BookSubscription:
    """One reader of some views; of each at most `limit` updates wait."""

    def __init__(
        self,
        views: Sequence[View],
        mailbox: Mailbox,
        respond: Callable[[list[Message]], Message],
        on_close: Callable[[], None],
        *,
        limit: int = UPDATES_MAX,
    ) -> None:
        # None stands for a snapshot that is still to be made: when the reader takes it.
        self._pending: dict[View, list[Message] | None] = dict.fromkeys(views)
        self._views = views
        self._mailbox = mailbox
        self._respond = respond
        self._on_close = on_close
        self._limit = limit
        for view in views:
            view.readers[self] = None
        mailbox.ready(self)

    def offer(self, view: View, update: Message) -> None:
        """Take an update of one of our views."""
        if view not in self._pending:
            self._pending[view] = [update]
            self._mailbox.ready(self)
            return
        waiting = self._pending[view]
        if waiting is None:
            return
        if len(waiting) < self._limit:
            waiting.append(update)
        else:
            self._pending[view] = None

    def drain(self) -> Message | None:
        pending, self._pending = self._pending, {}
        books: list[Message] = []
        for view, updates in pending.items():
            books += [view.snapshot()] if updates is None else updates
        return self._respond(books) if books else None

    def close(self) -> None:
        for view in self._views:
            view.readers.pop(self, None)
        self._on_close()


class BookStreams:
    """All book views that somebody reads."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._raw: dict[tuple[str, int, bool], LevelView] = {}
        self._timed: dict[tuple[str, int, bool, int], LevelView] = {}
        self._orders: dict[str, OrderView] = {}

    def publish(self, applied: Applied) -> None:
        """A log entry was applied."""
        for name, changes in applied.books.items():
            if (orders := self._orders.get(name)) is not None:
                orders.advance(applied.seq, changes)
        if not applied.books:
            return
        for (name, _, _), view in self._raw.items():
            if name in applied.books:
                view.advance(applied.seq, applied.time_ns)
        for (name, _, _, _), view in self._timed.items():
            view.dirty = view.dirty or name in applied.books

    async def run(self) -> None:
        """Advance the timed views until cancelled."""
        tick = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            tick += 1
            for (_, _, _, ticks), view in self._timed.items():
                if view.dirty and tick % ticks == 0:
                    view.advance(self._projection.book_seq, self._projection.book_time_ns)

    def open_levels(
        self,
        mailbox: Mailbox,
        states: Sequence[MarketState],
        *,
        depth: int,
        rate: pb.BookRate.ValueType,
        checksum: bool,
    ) -> BookSubscription:
        """The best levels of some markets: a snapshot of each, then updates."""
        views: list[View] = []
        for state in states:
            name = state.market.name
            view: LevelView | None
            if rate == pb.BOOK_RATE_RAW:
                view = self._raw.get((name, depth, checksum))
                if view is None:
                    view = LevelView(state, depth, checksum, self._projection)
                    self._raw[name, depth, checksum] = view
            else:
                ticks = _TICKS[rate]
                view = self._timed.get((name, depth, checksum, ticks))
                if view is None:
                    view = LevelView(state, depth, checksum, self._projection)
                    self._timed[name, depth, checksum, ticks] = view
            views.append(view)
        return BookSubscription(views, mailbox, _books_response, self._forget_unread)

    def open_orders(self, mailbox: Mailbox, states: Sequence[MarketState]) -> BookSubscription:
        """The orders of some markets: a snapshot of each, then updates."""
        views = []
        for state in states:
            name = state.market.name
            if name not in self._orders:
                self._orders[name] = OrderView(state, self._projection)
            views.append(self._orders[name])
        return BookSubscription(views, mailbox, _orders_response, self._forget_unread)

    def _forget_unread(self) -> None:
        self._raw = {key: view for key, view in self._raw.items() if view.readers}
        self._timed = {key: view for key, view in self._timed.items() if view.readers}
        self._orders = {key: view for key, view in self._orders.items() if view.readers}


def _books_response(books: list[Message]) -> pb.WatchBookResponse:
    response = pb.WatchBookResponse()
    for book in books:
        assert isinstance(book, pb.BookUpdate)
        response.books.append(book)
    return response


def _orders_response(books: list[Message]) -> pb.WatchOrderBookResponse:
    response = pb.WatchOrderBookResponse()
    for book in books:
        assert isinstance(book, pb.OrderBookUpdate)
        response.books.append(book)
    return response
