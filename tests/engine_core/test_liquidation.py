"""Liquidation of margin positions: the price, the waterfall, the fund, and who bears what."""

from __future__ import annotations

from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.exchange import Exchange
from tests.engine_core.margin_world import FUND, MarginWorld
from tests.engine_core.world import ALICE, BOB, CAROL, SECOND, USD, place


def test_the_liquidation_price_is_that_of_the_formula() -> None:
    """Long (E - M/q) / (1 - rate), short (E + M/q) / (1 + rate); rate is maintenance and fee."""
    world = MarginWorld(taker_fee_bps=10, maker_fee_bps=10)
    world.trade(ALICE, BOB, 100, 1_000)
    long, short = world.position(ALICE), world.position(BOB)
    assert long is not None
    assert short is not None
    # (100,000 - 10,000) / (100 x 0.995) = 904.52...; (110,000) / (100 x 1.005) = 1094.52...
    assert (long.liquidation_ticks, short.liquidation_ticks) == (904, 1_095)


def test_nothing_happens_one_tick_before_it() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    position = world.position(ALICE)
    assert position is not None
    # The mark is the median of index and last trade here: their mean.
    at = position.liquidation_ticks
    assert world.receipts(world.index(2 * (at + 1) - 1_000)) == []
    assert len(world.receipts(world.index(2 * at - 1_000))) == 1
    assert world.position(ALICE) is None


def test_the_book_takes_it_and_the_rest_of_the_margin_comes_back_less_the_fee() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    resting = world.order(place(ALICE, "buy", 10, 850))
    world.order(place(CAROL, "buy", 100, 903))
    events = world.index(800)
    [receipt] = world.receipts(events)
    assert world.exchange.order(resting) is None
    assert (receipt.filled_lots, receipt.fund_lots, receipt.auto_deleverages) == (100, 0, ())
    # Sold for 90,300: 300 of the margin of 10,000 is left, and the fee takes all of it.
    assert (receipt.fund_delta_units, receipt.returned_units) == (300, 0)
    assert world.money(ALICE, USD) == (90_000, 0)
    assert world.money(FUND, USD) == (300, 0)
    assert world.lots(CAROL) == 100


def test_an_empty_book_leaves_it_to_the_fund_at_the_bankruptcy_price() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    [receipt] = world.receipts(world.index(806))
    assert (receipt.mark_ticks, receipt.bankruptcy_ticks) == (903, 900)
    assert (receipt.filled_lots, receipt.fund_lots) == (0, 100)
    fund = world.position(FUND)
    assert fund is not None
    assert (fund.quantity_lots, fund.entry_notional_units, fund.margin_units) == (100, 90_000, 0)
    assert world.money(ALICE, USD) == (90_000, 0)


def test_the_fund_sells_what_it_carries_at_the_mark() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    world.index(806)
    world.order(place(CAROL, "buy", 60, 950))
    world.index(890)
    assert world.lots(FUND) == 40
    assert world.money(FUND, USD)[0] == 60 * 950 - 60 * 900


def test_a_gap_that_the_fund_cannot_carry_closes_the_most_profitable_opposite_positions() -> None:
    world = MarginWorld(leverage=10)
    world.leverage(CAROL, 20)
    world.order(place(BOB, "sell", 60, 1_000))
    world.order(place(CAROL, "sell", 40, 1_000))
    world.do(place(ALICE, "buy", 100, 1_000))
    # Far below 900, where Alice's margin is used up.
    events = world.index(600)
    [receipt] = world.receipts(events)
    assert receipt.fund_lots == 0
    # The mark is 800: Carol gains 8,000, Bob 12,000, but at half of her leverage.
    assert [(x.account_id, x.quantity_lots) for x in receipt.auto_deleverages] == [
        (CAROL, 40),
        (BOB, 60),
    ]
    assert world.money(ALICE, USD) == (90_000, 0)
    assert world.money(BOB, USD) == (100_000 + 60 * 100, 0)
    assert world.money(CAROL, USD) == (100_000 + 40 * 100, 0)
    assert world.exchange.open_position_count() == 0


def test_a_rich_fund_carries_a_gap() -> None:
    world = MarginWorld()
    world.deposit(FUND, USD, 50_000)
    world.trade(ALICE, BOB, 100, 1_000)
    [receipt] = world.receipts(world.index(600))
    assert (receipt.fund_lots, receipt.auto_deleverages) == (100, ())
    assert world.lots(FUND) == 100


def test_a_fund_that_is_worth_nothing_any_more_is_deleveraged_itself() -> None:
    world = MarginWorld()
    world.deposit(FUND, USD, 12_000)
    world.trade(ALICE, BOB, 100, 1_000)
    world.index(600)
    assert world.lots(FUND) == 100
    events = world.index(400)
    causes = {x.cause for x in events if isinstance(x, pe.PositionChanged)}
    assert causes == {4}
    assert world.exchange.open_position_count() == 0
    assert world.money(FUND, USD) == (0, 0)
    assert world.money(BOB, USD) == (100_000 + 10_000 + 12_000, 0)


def test_one_liquidation_can_set_off_the_next() -> None:
    world = MarginWorld(leverage=20)
    world.trade(ALICE, BOB, 50, 1_000)
    world.leverage(CAROL, 10)
    world.trade(CAROL, BOB, 50, 1_000)
    # The bid that takes Alice's lots is far below Carol's liquidation price, and moves the mark.
    world.order(place(BOB, "buy", 50, 951))
    world.order(place(BOB, "buy", 50, 901))
    events = world.index(905)
    assert [receipt.account_id for receipt in world.receipts(events)] in ([ALICE], [ALICE, CAROL])
    assert world.position(ALICE) is None


def test_a_halted_market_and_a_stale_index_liquidate_nothing() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    world.halt()
    assert world.receipts(world.index(500)) == []
    world.now_ns += 60 * SECOND
    world.resume()
    world.order(place(CAROL, "buy", 1, 10))
    assert world.lots(ALICE) == 100


def test_a_restart_in_the_middle_gives_the_same() -> None:
    def run(restart: bool) -> bytes:
        world = MarginWorld()
        world.deposit(FUND, USD, 12_000)
        world.trade(ALICE, BOB, 100, 1_000)
        world.index(600)
        if restart:
            world.exchange = Exchange.restore(world.exchange.snapshot())
        world.order(place(CAROL, "buy", 30, 601))
        world.index(500)
        world.index(400)
        return world.exchange.state_hash()

    assert run(True) == run(False)


def test_the_receipt_is_enough_to_work_it_out_again() -> None:
    world = MarginWorld(taker_fee_bps=10)
    world.trade(ALICE, BOB, 100, 1_000)
    world.order(place(CAROL, "buy", 50, 905))
    events = world.index(805)
    [receipt] = world.receipts(events)
    placed = next(x for x in events if isinstance(x, e.OrderPlaced))
    assert placed.order_id == receipt.order_id
    assert placed.price_ticks == receipt.bankruptcy_ticks
    q, entry, margin = receipt.quantity_lots, receipt.entry_notional_units, receipt.margin_units
    value = receipt.mark_ticks * q
    rate = receipt.maintenance_bps + receipt.fee_bps
    assert (margin + value - entry) * 10_000 < value * rate
    at = receipt.bankruptcy_ticks * q
    assert margin + at - entry >= -(-at * receipt.fee_bps // 10_000)
    deleveraged = sum(x.quantity_lots for x in receipt.auto_deleverages)
    assert receipt.filled_lots + receipt.fund_lots + deleveraged == q
    assert receipt.filled_notional_units == 50 * 905
    assert receipt.fee_units == -(-50 * 905 * 10 // 10_000)
    assert receipt.fund_delta_units <= -(-receipt.filled_notional_units * 50 // 10_000)


def test_a_short_is_liquidated_when_the_price_rises() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    world.order(place(CAROL, "sell", 100, 1_097, time_in_force=k.TIME_IN_FORCE_GTC))
    [receipt] = world.receipts(world.index(1_200))
    assert (receipt.account_id, receipt.quantity_lots) == (BOB, -100)
    assert receipt.filled_lots == 100
    assert world.lots(CAROL) == -100


def test_what_nobody_can_take_stays_open_and_is_tried_again() -> None:
    world = MarginWorld(leverage=10)
    world.leverage(CAROL, 1)
    world.trade(ALICE, BOB, 100, 1_000)
    # Bob takes his gain, and Carol is short from 850: nobody gains at Alice's 900 any more.
    world.order(place(CAROL, "sell", 100, 850))
    assert world.receipts(world.do(place(BOB, "buy", 100, 850))) == []
    assert (world.lots(ALICE), world.lots(CAROL)) == (100, -100)
    world.deposit(FUND, USD, 50_000)
    [receipt] = world.receipts(world.index(700))
    assert (receipt.account_id, receipt.fund_lots) == (ALICE, 100)
    assert world.money(ALICE, USD) == (90_000, 0)
