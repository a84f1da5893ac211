"""Books from the log: against the engine's own, and as readers rebuild them from their streams."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidebook.engine.v1 import log_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from examples.book import BookClient, OutOfStep
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain.exchange import Exchange
from services.engine.domain.views import LevelView
from services.marketdata.book_streams import BookStreams, BookSubscription
from services.marketdata.domain.book import BUY, SELL, BookDiverged, OrderBook
from services.marketdata.domain.depth import checksum
from services.marketdata.hub import Mailbox
from services.marketdata.projection import Applied, Projection
from tests.engine_core.world import ALICE, BOB, BTC, CAROL, MARKET, START_NS, USD, configure, place

NAME = "BTC_USD"
ACCOUNTS = (ALICE, BOB, CAROL)

orders = st.builds(
    lambda account, side, lots, price, mode, tif, shown: place(
        account,
        side,
        lots,
        price,
        self_trade_prevention=mode,
        time_in_force=tif,
        display_quantity_lots=shown if shown < lots else 0,
    ),
    st.sampled_from(ACCOUNTS),
    st.sampled_from(("buy", "sell")),
    st.integers(1, 12),
    st.integers(997, 1_003),
    st.sampled_from((0, 1, 2, 3, 4)),
    st.sampled_from((k.TIME_IN_FORCE_GTC, k.TIME_IN_FORCE_GTC, k.TIME_IN_FORCE_IOC)),
    # Icebergs now and then.
    st.sampled_from((0, 0, 1, 3)),
)
# Stops that fire on our own trades, and rest when they do not trade at once.
stops = st.builds(
    lambda account, side, lots, price, trigger: place(
        account,
        side,
        lots,
        price,
        type=k.ORDER_TYPE_STOP_LIMIT,
        trigger_price_ticks=trigger,
        trigger_source=k.TRIGGER_SOURCE_LAST,
        time_in_force=k.TIME_IN_FORCE_GTC,
    ),
    st.sampled_from(ACCOUNTS),
    st.sampled_from(("buy", "sell")),
    st.integers(1, 12),
    st.integers(997, 1_003),
    st.integers(997, 1_003),
)
# (account, which of the live orders, new price or 0, new quantity or 0); both 0 cancels.
changes = st.tuples(
    st.integers(0, 50),
    st.one_of(st.just(0), st.integers(997, 1_003)),
    st.one_of(st.just(0), st.integers(1, 20)),
)
# Batches: what one log entry holds.
flows = st.lists(st.lists(st.one_of(orders, orders, stops, changes), max_size=4), max_size=25)


class Flow:
    """The engine's core writing log entries, and the projection reading them."""

    def __init__(self) -> None:
        self.exchange = Exchange()
        self.seq = self.command_seq = 0
        self.projection = Projection()
        self.projection.loaded = True
        deposits = [
            c.Transfer(account, 10 * account + asset, asset, units, k.TRANSFER_KIND_DEPOSIT)
            for account in ACCOUNTS
            for asset, units in ((USD, 1_000_000), (BTC, 10_000))
        ]
        self.entry([configure(max_open_orders=1_000), *deposits])

    def entry(self, commands: list[c.Command]) -> Applied:
        """One group commit."""
        self.seq += 1
        entry = log_pb2.LogEntry(seq=self.seq, time_ns=START_NS + self.seq)
        for command in commands:
            self.command_seq += 1
            events = self.exchange.apply(command, entry.time_ns)
            logcodec.add_command(
                entry, command, events, command_seq=self.command_seq, received_ns=1
            )
        return self.projection.apply(log_pb2.LogEntry.FromString(entry.SerializeToString()))

    def command(self, step: Any) -> c.Command | None:
        """An order, or a change of one of the live ones."""
        if isinstance(step, c.Command):
            return step
        which, price, quantity = step
        live = [order for account in ACCOUNTS for order in self.exchange.open_orders(account)]
        if not live:
            return None
        order = live[which % len(live)]
        if price or quantity:
            return c.AmendOrder(
                order.account_id, order.order_id, price_ticks=price, quantity_lots=quantity
            )
        return c.CancelOrder(order.account_id, order.order_id)

    def step(self, batch: list[Any]) -> Applied | None:
        """Apply a batch one by one into a single entry."""
        commands = [command for step in batch if (command := self.command(step)) is not None]
        return self.entry(commands) if commands else None


def engine_levels(levels: tuple[LevelView, ...]) -> list[tuple[int, list[tuple[int, int]]]]:
    return [
        (level.price_ticks, [(order.order_id, order.quantity_lots) for order in level.orders])
        for level in levels
    ]


def own_levels(side: Any) -> list[tuple[int, list[tuple[int, int]]]]:
    """The same of ours, summed up again from single orders."""
    levels: dict[int, list[tuple[int, int]]] = {}
    for order in side.orders():
        levels.setdefault(order.price_ticks, []).append((order.order_id, order.lots))
    totals = [(price, sum(lots for _, lots in queue)) for price, queue in levels.items()]
    assert side.top(1_000) == totals
    assert side.best() == (totals[0] if totals else None)
    return list(levels.items())


@settings(max_examples=150, deadline=None)
@given(flows)
def test_the_book_is_the_engines_after_every_entry(flow: list[list[Any]]) -> None:
    world = Flow()
    for batch in flow:
        world.step(batch)
        book = world.exchange.book(MARKET)
        ours = world.projection.markets[NAME].book
        assert own_levels(ours.bids) == engine_levels(book.bids)
        assert own_levels(ours.asks) == engine_levels(book.asks)


def texts(levels: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(str(price), str(lots)) for price, lots in levels]


def open_book(world: Flow, streams: BookStreams, **request: Any) -> BookSubscription:
    values: dict[str, Any] = {"depth": 3, "rate": pb.BOOK_RATE_RAW, "checksum": True}
    state = world.projection.markets[NAME]
    return streams.open_levels(Mailbox(), [state], **(values | request))


def drain(reader: BookSubscription) -> list[pb.BookUpdate]:
    response = reader.drain()
    return list(response.books) if isinstance(response, pb.WatchBookResponse) else []


@settings(max_examples=100, deadline=None)
@given(flows, st.integers(0, 24), st.integers(1, 5))
def test_a_snapshot_and_its_deltas_make_the_servers_book_at_every_seq(
    flow: list[list[Any]], joins_at: int, depth: int
) -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    first = open_book(world, streams, depth=depth)
    late: BookSubscription | None = None
    clients = [(first, BookClient())]
    for number, batch in enumerate(flow):
        if (applied := world.step(batch)) is not None:
            streams.publish(applied)
        if number == joins_at:
            late = open_book(world, streams, depth=depth)
            clients.append((late, BookClient()))
        book = world.projection.markets[NAME].book
        for reader, client in clients:
            for update in drain(reader):
                client.take(update)
            assert client.levels(depth) == (
                texts(book.bids.top(depth)),
                texts(book.asks.top(depth)),
            )


@settings(max_examples=50, deadline=None)
@given(flows)
def test_a_slow_reader_gets_a_snapshot_in_place_of_what_it_did_not_take(
    flow: list[list[Any]],
) -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    state = world.projection.markets[NAME]
    view_of = open_book(world, streams)
    reader = BookSubscription(
        list(view_of._views), Mailbox(), view_of._respond, lambda: None, limit=2
    )
    client = BookClient()
    for update in drain(reader):
        client.take(update)
    for batch in flow:
        if (applied := world.step(batch)) is not None:
            streams.publish(applied)
    waiting = drain(reader)
    assert len(waiting) <= 2
    for update in waiting:
        client.take(update)
    assert client.levels(3) == (texts(state.book.bids.top(3)), texts(state.book.asks.top(3)))


def test_a_reader_that_lost_a_delta_notices_it_by_prev_seq() -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    reader = open_book(world, streams)
    client = BookClient()
    for price in (998, 999, 1_000):
        streams.publish(world.entry([place(ALICE, "buy", 1, price)]))
        updates = drain(reader)
        if price == 998:
            client.take(updates[0])
    with pytest.raises(OutOfStep, match="after"):
        client.take(updates[0])
    assert client.seq is None


def test_an_entry_that_changes_nothing_in_view_sends_nothing() -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    streams.publish(world.entry([place(ALICE, "buy", 1, 1_000)]))
    reader = open_book(world, streams, depth=1)
    drain(reader)
    streams.publish(world.entry([place(ALICE, "buy", 1, 999)]))
    assert drain(reader) == []
    streams.publish(world.entry([place(BOB, "buy", 2, 1_000)]))
    (update,) = drain(reader)
    assert [(level.price, level.quantity) for level in update.bids] == [("1000", "3")]


@settings(max_examples=60, deadline=None)
@given(flows)
def test_order_by_order_readers_keep_the_servers_queues(flow: list[list[Any]]) -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    state = world.projection.markets[NAME]
    reader = streams.open_orders(Mailbox(), [state])
    known: dict[int, tuple[int, str, str]] = {}
    seq = 0
    for batch in flow:
        if (applied := world.step(batch)) is not None:
            streams.publish(applied)
        response = reader.drain()
        for update in response.books if isinstance(response, pb.WatchOrderBookResponse) else ():
            assert update.snapshot or update.prev_seq == seq
            seq = update.seq
            for order in update.orders:
                if order.quantity == "0":
                    del known[order.order_id]
                else:
                    known[order.order_id] = (order.side, order.price, order.quantity)
        for side, ours in ((BUY, state.book.bids), (SELL, state.book.asks)):
            expected: dict[str, list[tuple[int, str]]] = {}
            for resting in ours.orders():
                queue = expected.setdefault(str(resting.price_ticks), [])
                queue.append((resting.order_id, str(resting.lots)))
            seen: dict[str, list[tuple[int, str]]] = {}
            for order_id, (of_side, price, quantity) in known.items():
                if of_side == side:
                    seen.setdefault(price, []).append((order_id, quantity))
            assert seen == expected


def test_an_iceberg_goes_to_the_back_with_its_next_slice() -> None:
    book = OrderBook()
    book.place(1, SELL, 100, 5)
    book.place(2, SELL, 100, 7)
    book.trade(1, 5)
    book.replenish(1, SELL, 100, 3)
    assert [(o.order_id, o.lots) for o in book.asks.orders()] == [(2, 7), (1, 3)]
    assert book.asks.top(5) == [(100, 10)]
    changes = [(c.order.order_id, c.was_shown, c.queued) for c in book.take_changes()]
    assert changes == [(2, False, True), (1, False, True)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda book: book.trade(9, 1),
        lambda book: book.trade(1, 6),
        lambda book: book.close(1, 4),
        lambda book: book.close(9, 1),
        lambda book: book.place(1, SELL, 100, 5),
        lambda book: book.amend(1, SELL, 4, 100, 2, False),
        lambda book: book.replenish(1, SELL, 100, 1),
    ],
)
def test_what_cannot_be_true_of_the_book_stops_it(wrong: Any) -> None:
    book = OrderBook()
    book.load(SELL, [(1, 100, 5)])
    with pytest.raises(BookDiverged):
        wrong(book)


def test_the_checksum_alternates_the_sides_and_goes_on_with_the_longer_one() -> None:
    bids, asks = [("3366.1", "7"), ("3366", "6")], [("3366.8", "9")]
    # The CRC-32 of "3366.1:7:3366.8:9:3366:6", as two's complement of 32 bits.
    assert checksum(bids, asks) == 1_164_732_920
    many = [(str(price), "1") for price in range(200, 100, -1)]
    assert checksum(many, []) == checksum(many[:25], [])
