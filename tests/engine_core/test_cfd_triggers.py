"""Contracts for difference: what ends them by itself, and how much the house carries."""

from __future__ import annotations

import pytest

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.cfds import (
    CLOSED_BY_LIQUIDATION,
    CLOSED_BY_STOP_LOSS,
    CLOSED_BY_TAKE_PROFIT,
    CLOSED_BY_USER,
)
from tests.engine_core.cfd_world import CfdWorld, open_cfd, refusal_of
from tests.engine_core.world import ALICE, MARKET, USD

FUND = 1
FREE = 100_000


def closings(events: list[e.Event]) -> list[tuple[int, int, int]]:
    """(contract, price, why) in order."""
    return [
        (event.cfd_id, event.close_ticks, event.reason)
        for event in events
        if isinstance(event, pe.CfdClosed)
    ]


@pytest.mark.parametrize(
    ("side", "triggers", "quiet", "reached", "price", "reason"),
    [
        ("long", {"stop_loss_ticks": 950}, (951, 952), (950, 960), 950, CLOSED_BY_STOP_LOSS),
        ("long", {"take_profit_ticks": 1050}, (1049, 1060), (1050, 1061), 1050, 3),
        ("short", {"stop_loss_ticks": 1050}, (1040, 1049), (1041, 1050), 1050, 2),
        ("short", {"take_profit_ticks": 950}, (940, 951), (939, 950), 950, 3),
        ("long", {}, (904, 905), (903, 904), 903, CLOSED_BY_LIQUIDATION),
        ("short", {}, (1094, 1094), (1095, 1095), 1095, CLOSED_BY_LIQUIDATION),
    ],
)
def test_a_long_watches_the_bid_and_a_short_the_ask(
    side: str,
    triggers: dict[str, int],
    quiet: tuple[int, int],
    reached: tuple[int, int],
    price: int,
    reason: int,
) -> None:
    world = CfdWorld()
    opened = world.open(side, 1000, **triggers)
    world.restart()
    assert world.prices(*quiet) == []
    assert closings(world.prices(*reached)) == [(opened.cfd_id, price, reason)]
    assert world.prices(*quiet) == []
    assert world.prices(*reached) == []


def test_a_gap_closes_at_the_ticks_price_and_the_house_bears_what_is_beyond_the_margin() -> None:
    world = CfdWorld(quote=(1000, 1000))
    stopped = world.open("long", 1000, 5, stop_loss_ticks=950)
    gone = world.open("long", 1000, 10)
    # 850: the first has lost 750 of 1000, the second would have lost 1500 of 1000.
    events = world.prices(850, 850)
    assert closings(events) == [
        (gone.cfd_id, 850, CLOSED_BY_LIQUIDATION),
        (stopped.cfd_id, 850, CLOSED_BY_STOP_LOSS),
    ]
    closed = {event.cfd_id: event for event in events if isinstance(event, pe.CfdClosed)}
    assert closed[stopped.cfd_id].returned_units == 250
    assert (closed[gone.cfd_id].pnl_units, closed[gone.cfd_id].returned_units) == (-1000, 0)
    assert world.money(ALICE, USD) == (FREE - 1750, 0)
    assert world.house() == 1750
    assert world.money(FUND, USD) == (0, 0)


def test_the_order_in_which_one_tick_fires_is_the_rule() -> None:
    world = CfdWorld(quote=(1000, 1000), max_open_orders=20)
    late_stop = world.open("long", 100, 5, stop_loss_ticks=940)
    both = world.open("long", 100, 10, stop_loss_ticks=980)
    first_stop = world.open("long", 100, 5, stop_loss_ticks=960)
    same_stop = world.open("long", 100, 5, stop_loss_ticks=960)
    high = world.open("long", 100, 20)
    gain = world.open("short", 100, 5, take_profit_ticks=990)
    assert closings(world.prices(900, 900)) == [
        (high.cfd_id, 900, CLOSED_BY_LIQUIDATION),
        (both.cfd_id, 900, CLOSED_BY_LIQUIDATION),
        (first_stop.cfd_id, 900, CLOSED_BY_STOP_LOSS),
        (same_stop.cfd_id, 900, CLOSED_BY_STOP_LOSS),
        (late_stop.cfd_id, 900, CLOSED_BY_STOP_LOSS),
        (gain.cfd_id, 900, CLOSED_BY_TAKE_PROFIT),
    ]


def test_triggers_move_and_go_and_a_reached_one_is_refused() -> None:
    world = CfdWorld()
    opened = world.open("long", 1000, stop_loss_ticks=950, take_profit_ticks=1050)
    world.do(pc.UpdateCfdTriggers(ALICE, opened.cfd_id, 940, 0))
    assert world.prices(945, 946) == []
    assert world.prices(1060, 1061) == []
    # A stop above the entry keeps what is won.
    world.do(pc.UpdateCfdTriggers(ALICE, opened.cfd_id, 1020, 0))
    wrong = pc.UpdateCfdTriggers(ALICE, opened.cfd_id, 1060, 0)
    assert refusal_of(world, wrong) is Reason.TRIGGER_ON_WRONG_SIDE
    (closed,) = world.prices(1015, 1016)
    assert isinstance(closed, pe.CfdClosed)
    assert (closed.reason, closed.pnl_units) == (CLOSED_BY_STOP_LOSS, 150)


def test_a_liquidation_costs_what_is_left_up_to_its_fee_and_leaves_a_receipt() -> None:
    world = CfdWorld(quote=(1000, 1000))
    opened = world.open("long", 1000)
    closed, receipt = world.prices(903, 904)
    # Lost 970 of 1000; the fee of 50 bps of 10_000 would be 50, and 30 are left.
    assert isinstance(closed, pe.CfdClosed) and closed.returned_units == 30
    assert receipt == pe.Liquidated(
        liquidation_id=1,
        account_id=ALICE,
        market_id=MARKET,
        cfd_id=opened.cfd_id,
        formula_version=1,
        quantity_lots=0,
        entry_notional_units=10_000,
        margin_units=1000,
        mark_ticks=903,
        bankruptcy_ticks=900,
        filled_lots=0,
        fund_lots=0,
        fund_delta_units=30,
        auto_deleverages=(),
        maintenance_bps=40,
        fee_bps=0,
        order_id=0,
        filled_notional_units=0,
        fee_units=0,
        returned_units=0,
        entry_ticks=1000,
        side=k.SIDE_BUY,
    )
    assert world.money(FUND, USD) == (30, 0)
    assert world.money(ALICE, USD) == (FREE - 1000, 0)
    assert world.house() == 970


def test_what_the_liquidation_fee_leaves_goes_back_to_the_owner() -> None:
    world = CfdWorld(
        quote=(1000, 1000),
        liquidation_fee_bps=10,
        margin_tiers=(c.MarginTierConfig(0, 500, 10),),
        max_leverage=10,
    )
    world.open("short", 1000)
    # 1100 / 1.05 = 1047.6: at 1048 it has lost 480, the fee is 10 of the 520 left.
    closed, receipt = world.prices(1047, 1048)
    assert isinstance(receipt, pe.Liquidated) and isinstance(closed, pe.CfdClosed)
    assert (receipt.fund_delta_units, receipt.returned_units) == (10, 510)
    assert world.money(ALICE, USD) == (FREE - 490, 0)
    assert world.money(FUND, USD) == (10, 0)


# ---------------------------------------------------------------- the house


def test_beyond_the_exposure_limit_only_what_reduces_it_is_taken() -> None:
    world = CfdWorld(max_exposure_units=15_000)
    world.open("long", 1000)
    assert refusal_of(world, open_cfd(ALICE, "long", 501)) is Reason.EXPOSURE_LIMIT_REACHED
    hedge = world.open("short", 2500)
    assert world.exchange.exposure(MARKET) == -15_000
    assert refusal_of(world, open_cfd(ALICE, "short", 1)) is Reason.EXPOSURE_LIMIT_REACHED
    world.open("long", 2000)
    # Closing is always taken, and may leave the house with more than its limit.
    world.close(hedge.cfd_id)
    assert world.exchange.exposure(MARKET) == 30_000
    assert refusal_of(world, open_cfd(ALICE, "long", 1)) is Reason.EXPOSURE_LIMIT_REACHED
    world.open("short", 1000)


def test_an_absurd_price_cannot_pay_more_than_the_ledger_can_say() -> None:
    world = CfdWorld(
        quote=(1, 1), max_price_ticks=10**18, max_notional_units=10**12, max_exposure_units=0
    )
    world.deposit(ALICE, USD, 10**12)
    opened = world.open("long", 10**10, 20)
    world.prices(10**18, 10**18)
    closed = world.close(opened.cfd_id)
    assert 0 < closed.pnl_units < 2**62
    world.restart()


def test_looking_at_a_contract_gives_its_terms_and_changes_nothing() -> None:
    world = CfdWorld()
    before = world.exchange.state_hash()
    command = open_cfd(ALICE, "short", 1000, take_profit_ticks=900)
    seen = world.exchange.preview_cfd(command, world.now_ns)
    assert world.exchange.state_hash() == before
    assert world.do(command) == [seen]
    assert world.close(seen.cfd_id).reason == CLOSED_BY_USER
