"""Contracts for difference: the numbers of the trading rules, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.markets import default_markets
from kernel.money import format_units
from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.cfds import (
    liquidation_ticks,
    profit,
)
from tests.engine_core.cfd_world import STALE_NS, CfdWorld, open_cfd, refusal_of
from tests.engine_core.world import ALICE, BOB, MARKET, SECOND, USD

FREE = 100_000
CHANGED: list[tuple[str, dict[str, Any], Reason]] = [
    ("no_market", {"market_id": 99}, Reason.MARKET_NOT_FOUND),
    ("no_side", {"side": 0}, Reason.INVALID_ARGUMENT),
    ("no_margin", {"margin_units": 0}, Reason.AMOUNT_INVALID),
    ("negative_margin", {"margin_units": -5}, Reason.AMOUNT_INVALID),
    ("no_leverage", {"leverage": 0}, Reason.LEVERAGE_OUT_OF_RANGE),
    ("leverage_above_the_markets", {"leverage": 101}, Reason.LEVERAGE_OUT_OF_RANGE),
    (
        "leverage_above_the_tiers",
        {"margin_units": 50_000, "leverage": 21},
        Reason.LEVERAGE_OUT_OF_RANGE,
    ),
    ("too_small", {"margin_units": 1, "leverage": 9}, Reason.NOTIONAL_TOO_SMALL),
    ("too_large", {"margin_units": 10_000_001}, Reason.NOTIONAL_TOO_LARGE),
    ("too_dear", {"margin_units": FREE + 1}, Reason.INSUFFICIENT_BALANCE),
    ("unknown_account", {"account_id": 77}, Reason.INSUFFICIENT_BALANCE),
    ("stop_reached", {"stop_loss_ticks": 999}, Reason.TRIGGER_ON_WRONG_SIDE),
    ("profit_reached", {"take_profit_ticks": 999}, Reason.TRIGGER_ON_WRONG_SIDE),
    ("stop_out_of_range", {"stop_loss_ticks": 10_001}, Reason.PRICE_OUT_OF_RANGE),
    ("profit_out_of_range", {"take_profit_ticks": -1}, Reason.PRICE_OUT_OF_RANGE),
    ("too_late", {"deadline_ns": 1}, Reason.DEADLINE_PASSED),
    ("long_client_id", {"client_cfd_id": "x" * 37}, Reason.INVALID_ARGUMENT),
]


# ---------------------------------------------------------------- the numbers of the rules


def test_the_vector_of_the_trading_rules() -> None:
    # SHORT, entry 235.95, margin 5000, 100x, no maintenance, no fee; in units of 10**-8 and ticks
    # of 0.0001.
    entry, margin, close = 2_359_500, 5000 * 10**8, 2_357_400
    notional = margin * 100
    pnl = profit(k.SIDE_SELL, notional, entry, close)
    assert format_units(pnl, 8)[:8] == "445.0095"
    assert format_units(margin + pnl, 8)[:9] == "5445.0095"
    # At 238.3095 nothing is left; a tick beyond it is gone.
    assert profit(k.SIDE_SELL, notional, entry, 2_383_095) == -margin
    assert liquidation_ticks(entry, 100, k.SIDE_SELL, 0) == 2_383_096


def test_the_vector_through_the_core() -> None:
    sol = next(m for m in default_markets() if m.name == "SOL_USDC_CFD")
    world = CfdWorld(
        quote=(23_595, 23_596),
        tick_size_units=sol.tick_size_units,
        lot_size_units=sol.lot_size_units,
        units_per_tick_lot=sol.tick_size_units * sol.lot_size_units,
        max_price_ticks=10**9,
        min_notional_units=sol.min_notional_units,
        max_notional_units=10**15,
        max_exposure_units=0,
        margin_tiers=(c.MarginTierConfig(0, 0, 100),),
    )
    world.deposit(ALICE, USD, 6000 * 10**8)
    opened = world.open("short", 5000 * 10**8, 100)
    # 238.3095 lies between two ticks of this market.
    assert (opened.entry_ticks, opened.liquidation_ticks) == (23_595, 23_831)
    assert world.prices(23_829, 23_830) == []
    world.prices(23_573, 23_574)
    closed = world.close(opened.cfd_id)
    assert closed.pnl_units == 44_500_953_591
    assert closed.returned_units == 5000 * 10**8 + closed.pnl_units
    assert world.house() == -closed.pnl_units


@pytest.mark.parametrize(
    ("side", "leverage", "rate_bps", "ticks"),
    [
        # entry x (1 -/+ 1/leverage) without maintenance: the first tick beyond.
        ("long", 10, 0, 899),
        ("short", 10, 0, 1101),
        # 900 / 0.996 = 903.6..., 1100 / 1.004 = 1095.6...
        ("long", 10, 40, 903),
        ("short", 10, 40, 1096),
        ("long", 1, 40, 0),
        ("long", 1, 0, 0),
        ("short", 1, 0, 2001),
        # 990 / 0.996 = 993.9..., 1010 / 1.004 = 1005.9...
        ("long", 100, 40, 993),
        ("short", 100, 40, 1006),
    ],
)
def test_liquidation_prices(side: str, leverage: int, rate_bps: int, ticks: int) -> None:
    number = k.SIDE_BUY if side == "long" else k.SIDE_SELL
    assert liquidation_ticks(1000, leverage, number, rate_bps) == ticks


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("leverage", [1, 3, 7, 20, 100])
def test_a_contract_is_liquidated_exactly_when_equity_is_below_maintenance(
    side: str, leverage: int
) -> None:
    """Equity and maintenance as the rules have them, times entry x 10_000 to stay exact."""
    entry, margin, rate = 1013, 77, 45
    number, s = (k.SIDE_BUY, 1) if side == "long" else (k.SIDE_SELL, -1)
    first = liquidation_ticks(entry, leverage, number, rate)
    for price in range(1, 3 * entry):
        equity = margin * entry + s * margin * leverage * (price - entry)
        below = equity * 10_000 < price * margin * leverage * rate
        reached = first != 0 and (price <= first if s > 0 else price >= first)
        assert below == reached, price


def test_a_long_opens_at_the_ask_and_closes_at_the_bid_and_a_short_the_other_way() -> None:
    world = CfdWorld()
    long, short = world.open("long", 1000), world.open("short", 1000)
    assert (long.entry_ticks, short.entry_ticks) == (1000, 999)
    assert world.money(ALICE, USD) == (FREE - 2000, 2000)
    assert world.close(long.cfd_id).pnl_units == -10
    # 10_000 / 999 = 10.01: rounded down, against the client.
    assert world.close(short.cfd_id).pnl_units == -11
    assert world.money(ALICE, USD) == (FREE - 21, 0)
    assert world.house() == 21


def test_a_feed_without_bid_and_ask_trades_at_its_index() -> None:
    world = CfdWorld()
    world.now_ns += SECOND
    update = c.PriceUpdate(MARKET, 0, 0, 1005, world.now_ns)
    world.do(c.SetPrices(prices=(update,)))
    opened = world.open("long", 1000)
    assert opened.entry_ticks == 1005
    assert world.close(opened.cfd_id).close_ticks == 1005


def test_fees_are_taken_at_both_ends_and_rounded_up() -> None:
    world = CfdWorld(taker_fee_bps=7, quote=(1000, 1000))
    opened = world.open("long", 1001)
    # 10_010 x 7 bps = 7.007.
    assert opened.fee_units == 8
    assert world.money(ALICE, USD) == (FREE - 1009, 1001)
    world.prices(1100, 1100)
    closed = world.close(opened.cfd_id)
    # 11_011 x 7 bps = 7.7077.
    assert (closed.pnl_units, closed.fee_units, closed.returned_units) == (1001, 8, 1994)
    assert world.exchange.fees() == {USD: 16, 2: 0}
    assert world.house() == -1001


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "reason"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED]
)
def test_a_wrong_contract_is_refused_and_changes_nothing(
    changes: dict[str, Any], reason: Reason
) -> None:
    command = open_cfd(ALICE, "long", 1000)
    for name, value in changes.items():
        setattr(command, name, value)
    assert refusal_of(CfdWorld(), command) is reason


def test_a_stale_price_opens_and_closes_nothing_and_fires_nothing() -> None:
    world = CfdWorld()
    opened = world.open("long", 1000, stop_loss_ticks=950)
    world.now_ns += STALE_NS
    world.close(world.open("long", 1000).cfd_id)
    world.now_ns += 1
    assert refusal_of(world, open_cfd(ALICE, "long", 1000)) is Reason.PRICE_STALE
    assert refusal_of(world, pc.CloseCfd(ALICE, opened.cfd_id)) is Reason.PRICE_STALE
    # A price that is stale when it arrives.
    assert world.tick(900, 901, time_ns=world.now_ns - STALE_NS - 1) == []
    # Triggers can still be set, and a fresh price fires them.
    (changed,) = world.do(pc.UpdateCfdTriggers(ALICE, opened.cfd_id, 890, 0))
    assert changed == pe.CfdTriggersChanged(opened.cfd_id, ALICE, 890, 0)
    assert len(world.prices(890, 891)) == 2


def test_no_price_opens_nothing() -> None:
    world = CfdWorld(price_stale_ns=0)
    fresh = CfdWorld.__new__(CfdWorld)
    super(CfdWorld, fresh).__init__(**{"kind": k.MARKET_KIND_CFD, **_leveraged()})
    assert refusal_of(fresh, open_cfd(ALICE, "long", 1000)) is Reason.PRICE_STALE
    # Without a limit a price never grows old.
    world.now_ns += 1000 * STALE_NS
    world.open("long", 1000)


def _leveraged() -> dict[str, Any]:
    return {"max_leverage": 10, "margin_tiers": (c.MarginTierConfig(0, 40, 10),)}


def test_a_price_of_the_future_is_one_of_now() -> None:
    world = CfdWorld()
    world.tick(950, 951, time_ns=world.now_ns + 3600 * SECOND)
    world.prices(970, 971)
    assert world.open("long", 1000).entry_ticks == 971


def test_an_older_price_changes_nothing() -> None:
    world = CfdWorld()
    world.open("long", 1000, stop_loss_ticks=950)
    assert world.tick(900, 901, time_ns=world.now_ns - 1) == []
    assert world.open("long", 1000).entry_ticks == 1000


def test_a_contract_that_would_be_liquidated_at_once_is_refused() -> None:
    # The spread alone eats what 100x leaves above maintenance.
    world = CfdWorld(quote=(993, 1000))
    assert refusal_of(world, open_cfd(ALICE, "long", 1000, 100)) is Reason.WOULD_BE_LIQUIDATED
    world.open("long", 1000, 50)


def test_a_market_takes_only_so_many_contracts_of_an_account() -> None:
    world = CfdWorld(max_open_orders=2)
    first = world.open("long", 1000)
    world.open("short", 1000)
    assert refusal_of(world, open_cfd(ALICE, "long", 1000)) is Reason.TOO_MANY_OPEN_ORDERS
    world.open("long", 1000, account_id=BOB)
    world.close(first.cfd_id)
    world.open("long", 1000)


def test_someone_elses_contract_is_not_found_and_a_closed_one_neither() -> None:
    world = CfdWorld()
    opened = world.open("long", 1000)
    assert refusal_of(world, pc.CloseCfd(BOB, opened.cfd_id)) is Reason.CFD_NOT_FOUND
    update = pc.UpdateCfdTriggers(BOB, opened.cfd_id, 900, 0)
    assert refusal_of(world, update) is Reason.CFD_NOT_FOUND
    world.close(opened.cfd_id)
    assert refusal_of(world, pc.CloseCfd(ALICE, opened.cfd_id)) is Reason.CFD_NOT_FOUND


def test_what_each_market_status_still_takes() -> None:
    world = CfdWorld()
    opened = [world.open("long", 1000, stop_loss_ticks=950) for _ in range(3)]
    for status, reason in (
        (k.MARKET_STATUS_CANCEL_ONLY, Reason.MARKET_CANCEL_ONLY),
        (k.MARKET_STATUS_POST_ONLY, Reason.MARKET_POST_ONLY),
    ):
        world.do(c.SetMarketStatus(market_id=MARKET, status=status))
        assert refusal_of(world, open_cfd(ALICE, "long", 1000)) is reason
        world.close(opened.pop().cfd_id)
    world.do(c.SetMarketStatus(market_id=MARKET, status=k.MARKET_STATUS_HALTED))
    (left,) = opened
    for command in (
        open_cfd(ALICE, "long", 1000),
        pc.CloseCfd(ALICE, left.cfd_id),
        pc.UpdateCfdTriggers(ALICE, left.cfd_id, 940, 0),
    ):
        assert refusal_of(world, command) is Reason.MARKET_HALTED
    assert world.prices(940, 941) == []
    world.do(c.SetMarketStatus(market_id=MARKET, status=k.MARKET_STATUS_TRADING))
    (fired,) = world.prices(941, 942)
    assert isinstance(fired, pe.CfdClosed) and fired.close_ticks == 941


# ---------------------------------------------------------------- repetition


def test_a_repeated_client_id_gets_the_first_answer_also_when_it_has_closed() -> None:
    world = CfdWorld()
    fields: dict[str, Any] = {"client_cfd_id": "mine", "stop_loss_ticks": 950}
    opened = world.open("long", 1000, **fields)
    world.do(pc.UpdateCfdTriggers(ALICE, opened.cfd_id, 960, 1100))
    for _ in range(2):
        again = open_cfd(ALICE, "long", 1000, deadline_ns=1, **fields)
        assert world.do(again) == [e.CommandRepeated(0, 0, opened.cfd_id)]
        other = open_cfd(ALICE, "long", 1001, **fields)
        assert refusal_of(world, other) is Reason.DUPLICATE_CLIENT_ORDER_ID
        world.restart()
    assert world.open("long", 1000, account_id=BOB, **fields).cfd_id == 2
    world.close(opened.cfd_id)
    world.restart()
    assert world.do(again) == [e.CommandRepeated(0, 0, opened.cfd_id)]
    world.prices(999, 1000, after_ns=24 * 3600 * SECOND)
    assert world.open("long", 500, client_cfd_id="mine").cfd_id == 3
    world.restart()
