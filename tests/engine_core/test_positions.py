"""Margin positions: netting, margin, profits; the vectors of the trading rules."""

from __future__ import annotations

import pytest

from kernel.markets import DEFAULT_ASSETS, default_markets
from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from tests.engine_core.margin_world import MarginWorld
from tests.engine_core.world import ALICE, BOB, CAROL, MARKET, START_NS, USD, place


def test_the_round_trip_of_the_trading_rules_makes_exactly_a_thousand() -> None:
    """A buys at 50,000 from B and sells back at 51,000, at a size that makes 1,000.00 USDC."""
    exchange = Exchange()
    markets = {market.name: market for market in default_markets()}
    exchange.apply(configuration(DEFAULT_ASSETS, markets.values()), START_NS)
    market = markets["BTC_USDC_MARGIN"]
    usdc = market.quote
    start = usdc.parse("100000")
    for number, account_id in enumerate((ALICE, BOB), start=1):
        exchange.apply(c.Transfer(account_id, number, usdc.asset_id, start, 1), START_NS)
    one = market.parse_quantity("1")

    def trade(buyer: int, seller: int, price: str) -> None:
        ticks = market.parse_price(price)
        for account_id, side in ((seller, k.SIDE_SELL), (buyer, k.SIDE_BUY)):
            events = exchange.apply(
                c.PlaceOrder(
                    account_id,
                    market.market_id,
                    side=side,
                    type=k.ORDER_TYPE_LIMIT,
                    price_ticks=ticks,
                    quantity_lots=one,
                ),
                START_NS,
            )
            assert isinstance(events[0], e.OrderPlaced), events
            exchange.check_invariants()

    trade(ALICE, BOB, "50000")
    assert [p.quantity_lots for p in exchange.positions(ALICE)] == [one]
    assert [p.quantity_lots for p in exchange.positions(BOB)] == [-one]
    trade(BOB, ALICE, "51000")
    assert exchange.positions(ALICE) == exchange.positions(BOB) == []
    # Alice took 50,000 and made 51,000, Bob the other way round: 5 and 2 basis points.
    fees = {ALICE: usdc.parse("35.2"), BOB: usdc.parse("35.5")}
    profit = {ALICE: usdc.parse("1000"), BOB: -usdc.parse("1000")}
    for account_id in (ALICE, BOB):
        balance = exchange.account(account_id)[usdc.asset_id]
        assert balance.held_units == 0
        assert balance.free_units == start + profit[account_id] - fees[account_id]
    assert exchange.clearing() == {asset.asset_id: 0 for asset in DEFAULT_ASSETS}


def test_opening_holds_the_margin_and_closing_frees_it() -> None:
    world = MarginWorld(leverage=10)
    world.trade(ALICE, BOB, 100, 1_000)
    assert world.money(ALICE, USD) == (90_000, 10_000)
    assert world.money(BOB, USD) == (90_000, 10_000)
    world.trade(BOB, ALICE, 40, 1_050)
    assert world.lots(ALICE) == 60
    # 40 of 100 lots: 40 % of the margin comes back, and 40 x 50 of profit.
    assert world.money(ALICE, USD) == (90_000 + 4_000 + 2_000, 6_000)
    assert world.money(BOB, USD) == (90_000 + 4_000 - 2_000, 6_000)


def test_a_fill_against_the_position_closes_first_and_opens_only_what_is_left() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    events = world.trade(CAROL, ALICE, 25, 1_000)
    assert (world.lots(ALICE), world.lots(BOB), world.lots(CAROL)) == (-15, -10, 25)
    changed = [x for x in events if isinstance(x, pe.PositionChanged) and x.account_id == ALICE]
    assert [(x.quantity_lots, x.delta_lots, x.margin_units) for x in changed] == [(-15, -25, 1_500)]


def test_the_average_price_is_never_rounded() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 1, 1_000)
    world.trade(ALICE, BOB, 2, 1_001)
    position = world.position(ALICE)
    assert position is not None
    assert (position.quantity_lots, position.entry_notional_units) == (3, 3_002)
    for _ in range(3):
        world.trade(BOB, ALICE, 1, 1_010)
    assert world.money(ALICE, USD) == (100_000 + 3 * 1_010 - 3_002, 0)


def test_closing_needs_no_free_money() -> None:
    world = MarginWorld(leverage=1)
    world.trade(ALICE, BOB, 100, 1_000)
    assert world.money(ALICE, USD)[0] == 0
    world.order(place(ALICE, "sell", 100, 1_200))
    assert world.refusal(place(ALICE, "sell", 1, 1_200)).reason == Reason.INSUFFICIENT_BALANCE
    world.do(place(CAROL, "buy", 50, 1_200))
    assert world.lots(ALICE) == 50
    assert world.money(ALICE, USD) == (50_000 + 10_000, 50_000)


def test_lots_that_close_are_claimed_by_one_order_only() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    free = world.money(ALICE, USD)[0]
    world.order(place(ALICE, "sell", 8, 1_100))
    assert world.money(ALICE, USD)[0] == free
    world.order(place(ALICE, "sell", 5, 1_100))
    # Two of the five close, three open: 3 x 1,100 at a leverage of 10.
    assert world.money(ALICE, USD)[0] == free - 330


def test_a_closing_order_whose_position_is_gone_takes_margin_from_free_money() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    world.order(place(ALICE, "sell", 10, 1_100))
    world.trade(BOB, ALICE, 10, 1_050)
    assert world.lots(ALICE) == 0
    world.do(place(CAROL, "buy", 10, 1_100))
    assert world.lots(ALICE) == -10
    assert world.money(ALICE, USD) == (100_000 + 500 - 1_100, 1_100)


def test_a_maker_that_can_no_longer_pay_is_cancelled_and_the_taker_goes_on() -> None:
    world = MarginWorld(leverage=1)
    world.trade(ALICE, BOB, 50, 1_000)
    world.order(place(ALICE, "sell", 50, 1_100))
    world.trade(BOB, ALICE, 50, 1_000)
    # Alice's order closed a position that is gone; her money is in another order now.
    world.order(place(ALICE, "buy", 100, 999))
    world.order(place(BOB, "sell", 10, 1_100))
    events = world.do(place(CAROL, "buy", 10, 1_100))
    closed = [x for x in events if isinstance(x, e.OrderClosed) and x.account_id == ALICE]
    assert [Reason(x.reason) for x in closed] == [Reason.INSUFFICIENT_MARGIN]
    assert world.lots(CAROL) == 10
    assert world.lots(ALICE) == 0


def test_reduce_only_is_cut_to_the_position_and_never_turns_it() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    world.order(place(ALICE, "sell", 25, 1_100, reduce_only=True))
    world.do(place(CAROL, "buy", 25, 1_100))
    assert (world.lots(ALICE), world.lots(CAROL)) == (0, 10)
    refused = world.refusal(place(ALICE, "sell", 1, 1_100, reduce_only=True))
    assert (refused.reason, refused.field) == (Reason.REDUCE_ONLY_WOULD_INCREASE, "reduce_only")


def test_resting_reduce_only_orders_end_with_the_position() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    order_id = world.order(place(ALICE, "sell", 10, 1_100, reduce_only=True))
    world.trade(BOB, ALICE, 10, 1_050)
    assert world.exchange.order(order_id) is None


def closings(events: list[e.Event], order_id: int) -> list[int]:
    """The statuses with which an order closed."""
    return [x.status for x in events if isinstance(x, e.OrderClosed) and x.order_id == order_id]


@pytest.mark.parametrize("paired", [False, True])
def test_a_stop_that_closes_the_whole_position_closes_once(paired: bool) -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    stop = place(
        *(ALICE, "sell", 10),
        type=k.ORDER_TYPE_STOP_MARKET,
        trigger_price_ticks=950,
        trigger_source=k.TRIGGER_SOURCE_LAST,
        reduce_only=True,
    )
    if paired:
        profit = place(ALICE, "sell", 10, 1_100, reduce_only=True)
        world.do(c.PlaceOco(account_id=ALICE, first=profit, second=stop))
    else:
        world.order(stop)
    stop_id = world.exchange.open_orders(ALICE)[-1].order_id
    world.order(place(CAROL, "buy", 10, 948))
    events = world.trade(CAROL, BOB, 1, 949)
    assert closings(events, stop_id) == [k.ORDER_STATUS_FILLED]
    assert (world.lots(ALICE), world.lots(CAROL)) == (0, 11)
    assert world.exchange.open_orders(ALICE) == []


def test_a_reducing_order_that_is_amended_into_the_book_closes_once() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    order_id = world.order(place(ALICE, "sell", 10, 1_100, reduce_only=True))
    world.order(place(CAROL, "buy", 10, 1_000))
    events = world.do(c.AmendOrder(account_id=ALICE, order_id=order_id, price_ticks=1_000))
    assert closings(events, order_id) == [k.ORDER_STATUS_FILLED]
    assert world.lots(ALICE) == 0


def test_reduce_only_means_nothing_in_a_spot_market() -> None:
    assert (
        MarginWorld(kind=k.MARKET_KIND_SPOT, max_leverage=0, margin_tiers=())
        .refusal(place(ALICE, "sell", 1, 1_000, reduce_only=True))
        .reason
        == Reason.UNSUPPORTED
    )


def test_a_sell_above_its_limit_is_covered_by_its_hold() -> None:
    world = MarginWorld(leverage=1)
    world.order(place(BOB, "buy", 90, 1_100))
    world.do(place(ALICE, "sell", 90, 1_000))
    assert world.money(ALICE, USD) == (1_000, 99_000)
    assert world.refusal(place(CAROL, "sell", 100, 1_100)).reason == Reason.INSUFFICIENT_BALANCE


@pytest.mark.parametrize(
    ("leverage", "reason"),
    [(0, Reason.LEVERAGE_OUT_OF_RANGE), (101, Reason.LEVERAGE_OUT_OF_RANGE)],
)
def test_leverage_has_a_range(leverage: int, reason: Reason) -> None:
    refused = MarginWorld().refusal(pc.SetLeverage(ALICE, MARKET, leverage))
    assert (refused.reason, refused.field) == (reason, "leverage")


def test_leverage_is_locked_while_orders_are_open() -> None:
    world = MarginWorld()
    world.order(place(ALICE, "buy", 1, 1_000))
    assert world.refusal(pc.SetLeverage(ALICE, MARKET, 5)).reason == Reason.LEVERAGE_LOCKED
    world.leverage(ALICE, 10)


def test_a_larger_position_has_a_lower_highest_leverage() -> None:
    world = MarginWorld(leverage=50, max_notional_units=10_000_000)
    refused = world.refusal(place(ALICE, "buy", 1_000, 1_000))
    assert (refused.reason, refused.field) == (Reason.LEVERAGE_OUT_OF_RANGE, "quantity_lots")
    world.order(place(ALICE, "buy", 999, 1_000))


def test_an_order_that_would_be_liquidated_at_once_is_refused() -> None:
    world = MarginWorld(leverage=100)
    world.index(1_000)
    # Bought at 1,010 with a margin of 1 %, worth 1,000.
    assert world.refusal(place(ALICE, "buy", 100, 1_010)).reason == Reason.WOULD_BE_LIQUIDATED
    world.order(place(ALICE, "buy", 100, 1_001))


def test_margin_is_added_once_per_request_and_moves_the_liquidation_price() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 100, 1_000)
    before = world.position(ALICE)
    world.do(pc.AddMargin(ALICE, MARKET, 5_000, "more"))
    assert isinstance(world.do(pc.AddMargin(ALICE, MARKET, 5_000, "more"))[0], e.CommandRepeated)
    conflict = world.refusal(pc.AddMargin(ALICE, MARKET, 6_000, "more"))
    assert conflict.reason == Reason.IDEMPOTENCY_CONFLICT
    assert world.money(ALICE, USD) == (85_000, 15_000)
    after = world.position(ALICE)
    assert before is not None
    assert after is not None
    assert after.liquidation_ticks < before.liquidation_ticks


def test_fok_counts_only_makers_that_can_pay() -> None:
    world = MarginWorld(leverage=1)
    world.trade(ALICE, BOB, 50, 1_000)
    world.order(place(ALICE, "sell", 50, 1_100))
    world.trade(BOB, ALICE, 50, 1_000)
    world.order(place(ALICE, "buy", 100, 999))
    fok = {"time_in_force": k.TIME_IN_FORCE_FOK}
    assert world.refusal(place(CAROL, "buy", 10, 1_100, **fok)).reason == Reason.FOK_NOT_FILLABLE
    world.order(place(BOB, "sell", 10, 1_100))
    world.do(place(CAROL, "buy", 10, 1_100, **fok))
    assert world.lots(CAROL) == 10


def test_amending_a_closing_order_keeps_money_and_holds_exact() -> None:
    world = MarginWorld()
    world.trade(ALICE, BOB, 10, 1_000)
    order_id = world.order(place(ALICE, "sell", 15, 1_100))
    free = world.money(ALICE, USD)[0]
    world.do(c.AmendOrder(ALICE, order_id, quantity_lots=12))
    world.do(c.AmendOrder(ALICE, order_id, price_ticks=1_200))
    assert world.money(ALICE, USD)[0] == free + 550 - 240
    world.do(c.CancelOrder(ALICE, order_id))
    assert world.money(ALICE, USD) == (99_000, 1_000)


def test_a_position_below_the_smallest_order_can_still_be_closed() -> None:
    world = MarginWorld(min_notional_units=5_000, min_quantity_lots=5)
    world.trade(ALICE, BOB, 10, 1_000)
    world.order(place(ALICE, "sell", 8, 1_000))
    world.do(place(CAROL, "buy", 8, 1_000))
    assert world.lots(ALICE) == 2
    assert world.refusal(place(ALICE, "sell", 2, 1_000)).reason == Reason.QUANTITY_TOO_SMALL
    world.order(place(ALICE, "sell", 2, 1_000, reduce_only=True))
    world.order(place(CAROL, "buy", 9, 1_000))
    assert world.lots(ALICE) == 0


def test_the_risk_of_an_order_is_that_of_the_prices_it_will_get_not_of_its_limit() -> None:
    world = MarginWorld(leverage=20, taker_fee_bps=5, maker_fee_bps=2)
    world.index(1_000)
    world.order(place(BOB, "sell", 50, 1_001))
    # A MARKET order may go 5 % further than the best price, which a margin of 5 % would not stand.
    world.order(place(ALICE, "buy", 20))
    world.order(place(ALICE, "buy", 20, 1_050))
    assert world.lots(ALICE) == 40
    # What is beyond the 10 lots at 1,001 would be bought at 1,090, with the mark near 1,000.
    assert world.refusal(place(ALICE, "buy", 80, 1_090)).reason == Reason.WOULD_BE_LIQUIDATED
