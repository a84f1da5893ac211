"""What the exchange remembers: idempotency, ids, fees of old orders, snapshots."""

from __future__ import annotations

import pytest

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from services.engine.domain.ranges import IdRanges
from services.engine.domain.record import field_names
from tests.engine_core.world import ALICE, BOB, MARKET, SECOND, USD, World, configure, place


def test_a_retry_with_a_later_deadline_on_another_stream_is_the_same_order() -> None:
    world = World()
    first = place(ALICE, "buy", 1, 1_000, client_order_id="a", stream_id=1)
    order_id = world.order(first)
    again = place(ALICE, "buy", 1, 1_000, client_order_id="a", stream_id=2, deadline_ns=1)
    assert world.do(again) == [e.CommandRepeated(order_id, 0)]


def test_a_refused_order_does_not_use_up_its_client_id() -> None:
    world = World()
    assert world.refusal(place(ALICE, "buy", 999, 1_000, client_order_id="a")).reason == (
        Reason.INSUFFICIENT_BALANCE
    )
    world.order(place(ALICE, "buy", 1, 1_000, client_order_id="a"))


def test_only_so_many_client_ids_of_closed_orders_are_remembered() -> None:
    world = World(window_entries=2)
    for name in ("a", "b", "c", "d"):
        world.order(place(ALICE, "buy", 1, 1_000, client_order_id=name))
        world.do(c.CancelOrder(ALICE, client_order_id=name))
    live = world.order(place(ALICE, "buy", 1, 1_000, client_order_id="live"))
    known = {name: world.exchange.known_order_id(ALICE, name, world.now_ns) for name in "abcd"}
    assert known == {"a": 0, "b": 0, "c": 3, "d": 4}
    assert world.exchange.known_order_id(ALICE, "live", world.now_ns) == live


def test_a_transfer_is_applied_once_and_a_refused_one_is_decided_again() -> None:
    world = World()
    debit = c.Transfer(ALICE, 50, USD, -150_000, k.TRANSFER_KIND_WITHDRAWAL)
    assert world.refusal(debit).reason == Reason.INSUFFICIENT_BALANCE
    world.deposit(ALICE, USD, 50_000)
    assert isinstance(world.do(debit)[0], e.TransferApplied)
    world.restart()
    assert world.do(debit) == [e.CommandRepeated(0, 50)]
    assert world.money(ALICE, USD) == (0, 0)


def test_order_ids_and_trade_ids_rise_without_a_gap() -> None:
    world = World()
    assert world.order(place(BOB, "sell", 2, 1_000)) == 1
    world.refusal(place(BOB, "sell", 1_000, 1_000))
    trades = []
    for order_id in (2, 3):
        events = world.do(place(ALICE, "buy", 1, 1_000))
        assert isinstance(events[0], e.OrderPlaced)
        assert events[0].order_id == order_id
        trades += [event.trade_id for event in events if isinstance(event, e.Trade)]
        world.restart()
    assert trades == [1, 2]
    assert world.exchange.markets()[0].last_price_ticks == 1_000


def test_an_order_keeps_the_maker_rate_it_was_placed_under() -> None:
    world = World()
    world.order(place(ALICE, "buy", 1, 1_000))
    # Its hold covers 20 bps at most, so a higher rate must not apply to it.
    world.do(configure(maker_fee_bps=500, taker_fee_bps=500))
    trade = world.do(place(BOB, "sell", 1, 1_000))[1]
    assert isinstance(trade, e.Trade)
    assert (trade.maker_fee_units, trade.taker_fee_units) == (1, 50)
    assert world.money(ALICE, USD) == (98_999, 0)


def test_a_rebate_is_rounded_down() -> None:
    world = World(maker_fee_bps=-10)
    world.order(place(ALICE, "buy", 1, 1_999))
    trade = world.do(place(BOB, "sell", 1, 1_999))[1]
    assert isinstance(trade, e.Trade)
    assert (trade.maker_fee_units, trade.taker_fee_units) == (-1, 4)
    assert world.exchange.fees()[USD] == 3


def test_many_small_fills_never_cost_more_than_the_hold() -> None:
    world = World()
    world.order(place(ALICE, "buy", 50, 1_001))
    for _ in range(50):
        world.do(place(BOB, "sell", 1, 1_001))
    # Each fill's fee of 1.001 is rounded up to 2.
    assert world.money(ALICE, USD) == (100_000 - 50 * 1_003, 0)


def test_disconnect_cancels_the_orders_of_one_stream() -> None:
    world = World()
    world.order(place(ALICE, "buy", 1, 1_000, stream_id=7))
    world.order(place(ALICE, "buy", 1, 999, stream_id=8))
    events = world.do(c.CancelAll(ALICE, stream_id=7, reason=Reason.CANCELLED_ON_DISCONNECT))
    closed = events[0]
    assert isinstance(closed, e.OrderClosed)
    assert (closed.order_id, closed.reason) == (1, Reason.CANCELLED_ON_DISCONNECT)
    assert events[1:] == [e.OrdersCancelled(1)]


def test_views_show_a_live_order() -> None:
    world = World()
    order_id = world.order(
        place(
            ALICE,
            "buy",
            3,
            1_000,
            client_order_id="a",
            time_in_force=k.TIME_IN_FORCE_GTD,
            expire_ns=world.now_ns + SECOND,
        )
    )
    world.now_ns += 1
    world.do(place(BOB, "sell", 1, 1_000))
    view = world.exchange.order_by_client_id(ALICE, "a")
    assert view is not None
    assert view == world.exchange.order(order_id)
    assert world.exchange.open_orders(ALICE) == world.exchange.open_orders(ALICE, MARKET) == [view]
    assert view.status == k.ORDER_STATUS_PARTIALLY_FILLED
    assert (view.quantity_lots, view.filled_lots, view.remaining_lots) == (3, 1, 2)
    assert (view.hold_asset_id, view.hold_units) == (USD, 2_004)
    assert (view.filled_notional_units, view.fees_units) == (1_000, 1)
    assert view.updated_ns == view.created_ns + 1
    assert world.exchange.next_due_ns() == view.created_ns + SECOND
    assert world.exchange.open_orders(BOB) == []


def test_expiries_of_closed_orders_do_not_pile_up() -> None:
    world = World()
    for number in range(200):
        order = place(
            ALICE,
            "buy",
            1,
            1_000,
            time_in_force=k.TIME_IN_FORCE_GTD,
            expire_ns=world.now_ns + SECOND * 10**6,
        )
        world.do(order)
        world.do(c.CancelOrder(ALICE, number + 1))
    assert len(world.exchange._state.expiries) <= 65
    assert world.exchange.next_due_ns() == 0


def test_a_newer_epoch_takes_over_and_an_older_cannot_come_back() -> None:
    world = World()
    assert world.do(c.BeginEpoch(epoch=2, writer="b")) == [e.EpochBegan(2)]
    world.restart()
    assert world.exchange.epoch == 2
    assert world.refusal(c.BeginEpoch(epoch=2, writer="a")).reason == Reason.FENCED


def test_configuration_may_add_markets_and_change_fees() -> None:
    world = World()
    base = configure(taker_fee_bps=30)
    second = c.MarketConfig(
        **{
            **{name: getattr(base.markets[0], name) for name in field_names(c.MarketConfig)},
            "market_id": 2,
            "name": "OTHER",
        }
    )
    events = world.do(c.Configure(assets=base.assets, markets=(*base.markets, second)))
    assert events == [e.Configured(2, 2)]
    assert [market.config.taker_fee_bps for market in world.exchange.markets()] == [30, 30]


def test_a_refused_command_is_counted_and_nothing_else() -> None:
    world = World()
    before = world.exchange.last_command_seq
    world.refusal(c.CancelOrder(ALICE, 5))
    assert world.exchange.last_command_seq == before + 1


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("too short", lambda data: data[:20]),
        ("not a snapshot", lambda data: b"X" + data[1:]),
        ("version", lambda data: data[:8] + b"\x09" + data[9:]),
        ("damaged", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("damaged", lambda data: data[:-3]),
    ],
)
def test_a_bad_snapshot_is_not_restored(what: str, data: object) -> None:
    assert callable(data)
    with pytest.raises(ValueError, match=what):
        Exchange.restore(data(World().exchange.snapshot()))


def test_id_ranges_remember_every_id_in_any_order() -> None:
    ids, reference = IdRanges(), set()
    for number in (5, 3, 4, 9, 1, 10, 7, 2, 8, 6):
        assert number not in ids
        ids.add(number)
        reference.add(number)
        assert {n for n in range(12) if n in ids} == reference
    assert (ids.starts, ids.ends) == ([1], [10])


def test_heartbeats_of_a_switch_do_not_pile_up() -> None:
    world = World()
    for _ in range(200):
        world.now_ns += SECOND
        world.do(c.CancelAllAfter(ALICE, world.now_ns + 3_600 * SECOND))
    assert len(world.exchange._state.switch_times) <= 65
    assert world.exchange.next_due_ns() == world.now_ns + 3_600 * SECOND
    world.do(c.CancelAllAfter(ALICE))
    assert world.exchange.next_due_ns() == 0
