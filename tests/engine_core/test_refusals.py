"""Every refusal has its own reason and field, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.money import INT64_MAX
from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from tests.engine_core.world import (
    ALICE,
    BOB,
    BTC,
    MARKET,
    SECOND,
    START_NS,
    USD,
    World,
    configure,
    place,
)

LIMIT_CASES: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("unknown market", {"market_id": 9}, Reason.MARKET_NOT_FOUND, "market_id"),
    ("no side", {"side": 0}, Reason.INVALID_ARGUMENT, "side"),
    ("unknown side", {"side": 3}, Reason.INVALID_ARGUMENT, "side"),
    ("no type", {"type": 0}, Reason.INVALID_ARGUMENT, "type"),
    ("unknown type", {"type": 99}, Reason.INVALID_ARGUMENT, "type"),
    ("trailing", {"trailing_bps": 5}, Reason.INVALID_ARGUMENT, "trailing_bps"),
    ("trigger source", {"trigger_source": 1}, Reason.INVALID_ARGUMENT, "trigger_source"),
    (
        "unknown time in force",
        {"time_in_force": 5},
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        "time_in_force",
    ),
    ("no price", {"price_ticks": 0}, Reason.PRICE_REQUIRED, "price_ticks"),
    ("negative price", {"price_ticks": -1}, Reason.PRICE_OUT_OF_RANGE, "price_ticks"),
    ("price too high", {"price_ticks": 10_001}, Reason.PRICE_OUT_OF_RANGE, "price_ticks"),
    ("no quantity", {"quantity_lots": 0}, Reason.QUANTITY_REQUIRED, "quantity_lots"),
    ("negative quantity", {"quantity_lots": -1}, Reason.QUANTITY_TOO_SMALL, "quantity_lots"),
    ("quantity too large", {"quantity_lots": 1_001}, Reason.QUANTITY_TOO_LARGE, "quantity_lots"),
    ("notional too small", {"price_ticks": 9}, Reason.NOTIONAL_TOO_SMALL, "quantity_lots"),
    (
        "notional too large",
        {"quantity_lots": 999, "price_ticks": 1_002},
        Reason.NOTIONAL_TOO_LARGE,
        "quantity_lots",
    ),
    ("amount on LIMIT", {"quote_amount_units": 1}, Reason.INVALID_ARGUMENT, "quote_amount_units"),
    ("slippage on LIMIT", {"max_slippage_bps": 1}, Reason.INVALID_ARGUMENT, "max_slippage_bps"),
    ("reduce only", {"reduce_only": True}, Reason.UNSUPPORTED, "reduce_only"),
    (
        "iceberg IOC",
        {"display_quantity_lots": 1, "time_in_force": k.TIME_IN_FORCE_IOC},
        Reason.INVALID_ARGUMENT,
        "display_quantity_lots",
    ),
    (
        "iceberg of less than nothing",
        {"display_quantity_lots": -1},
        Reason.QUANTITY_TOO_SMALL,
        "display_quantity_lots",
    ),
    (
        "iceberg of too many slices",
        {"display_quantity_lots": 1, "quantity_lots": 101},
        Reason.QUANTITY_TOO_SMALL,
        "display_quantity_lots",
    ),
    (
        "unknown prevention",
        {"self_trade_prevention": 5},
        Reason.INVALID_ARGUMENT,
        "self_trade_prevention",
    ),
    (
        "post-only IOC",
        {"post_only": True, "time_in_force": k.TIME_IN_FORCE_IOC},
        Reason.INVALID_ARGUMENT,
        "post_only",
    ),
    ("trigger", {"trigger_price_ticks": 5}, Reason.INVALID_ARGUMENT, "trigger_price_ticks"),
    ("expiry without GTD", {"expire_ns": START_NS * 2}, Reason.INVALID_ARGUMENT, "expire_ns"),
    (
        "GTD without expiry",
        {"time_in_force": k.TIME_IN_FORCE_GTD},
        Reason.INVALID_ARGUMENT,
        "expire_ns",
    ),
    (
        "GTD in the past",
        {"time_in_force": k.TIME_IN_FORCE_GTD, "expire_ns": START_NS},
        Reason.EXPIRED,
        "expire_ns",
    ),
    ("too late", {"deadline_ns": START_NS - 1}, Reason.DEADLINE_PASSED, "deadline_ns"),
    (
        "long client id",
        {"client_order_id": "x" * 37},
        Reason.INVALID_ARGUMENT,
        "client_order_id",
    ),
    ("more than it has", {"quantity_lots": 100}, Reason.INSUFFICIENT_BALANCE, "quantity_lots"),
    (
        "nothing to fill a FOK",
        {"time_in_force": k.TIME_IN_FORCE_FOK},
        Reason.FOK_NOT_FILLABLE,
        "quantity_lots",
    ),
]

MARKET_CASES: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("price on MARKET", {"price_ticks": 1}, Reason.PRICE_NOT_ALLOWED, "price_ticks"),
    (
        "GTC on MARKET",
        {"time_in_force": k.TIME_IN_FORCE_GTC},
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        "time_in_force",
    ),
    ("post-only MARKET", {"post_only": True}, Reason.INVALID_ARGUMENT, "post_only"),
    (
        "slippage over all",
        {"max_slippage_bps": 10_001},
        Reason.INVALID_ARGUMENT,
        "max_slippage_bps",
    ),
    (
        "quantity and amount",
        {"quote_amount_units": 5_000},
        Reason.INVALID_ARGUMENT,
        "quote_amount_units",
    ),
    ("neither", {"quantity_lots": 0}, Reason.QUANTITY_REQUIRED, "quantity_lots"),
    ("too many lots", {"quantity_lots": 1_001}, Reason.QUANTITY_TOO_LARGE, "quantity_lots"),
    ("too much", {"quantity_lots": 999}, Reason.NOTIONAL_TOO_LARGE, "quantity_lots"),
    (
        "FOK by amount",
        {
            "quantity_lots": 0,
            "quote_amount_units": 5_000,
            "time_in_force": k.TIME_IN_FORCE_FOK,
        },
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        "time_in_force",
    ),
    (
        "tiny amount",
        {"quantity_lots": 0, "quote_amount_units": 9},
        Reason.NOTIONAL_TOO_SMALL,
        "quote_amount_units",
    ),
    (
        "negative amount",
        {"quantity_lots": 0, "quote_amount_units": -5},
        Reason.NOTIONAL_TOO_SMALL,
        "quote_amount_units",
    ),
    (
        "amount under one lot",
        {"quantity_lots": 0, "quote_amount_units": 900},
        Reason.QUANTITY_TOO_SMALL,
        "quote_amount_units",
    ),
    (
        "huge amount",
        {"quantity_lots": 0, "quote_amount_units": 10**7},
        Reason.NOTIONAL_TOO_LARGE,
        "quote_amount_units",
    ),
    (
        "amount beyond the balance",
        {"quantity_lots": 0, "quote_amount_units": 100_001},
        Reason.INSUFFICIENT_BALANCE,
        "quote_amount_units",
    ),
]


BASE: dict[str, Any] = {"market_id": MARKET, "side": k.SIDE_BUY, "quantity_lots": 1}


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [case[1:] for case in LIMIT_CASES],
    ids=[case[0] for case in LIMIT_CASES],
)
def test_a_limit_order_is_refused(fields: dict[str, Any], reason: Reason, field: str) -> None:
    limit = {"type": k.ORDER_TYPE_LIMIT, "price_ticks": 1_000}
    refused = World().refusal(c.PlaceOrder(ALICE, **{**BASE, **limit, **fields}))
    assert (Reason(refused.reason), refused.field) == (reason, field)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [case[1:] for case in MARKET_CASES],
    ids=[case[0] for case in MARKET_CASES],
)
def test_a_market_order_is_refused(fields: dict[str, Any], reason: Reason, field: str) -> None:
    world = World()
    world.order(place(BOB, "sell", 50, 1_002))
    market = {"type": k.ORDER_TYPE_MARKET}
    refused = world.refusal(c.PlaceOrder(ALICE, **{**BASE, **market, **fields}))
    assert (Reason(refused.reason), refused.field) == (reason, field)


SYSTEM_CASES: list[tuple[str, c.Command, Reason, str]] = [
    (
        "transfer of an unknown asset",
        c.Transfer(ALICE, 99, 7, 1, 1),
        Reason.ASSET_NOT_FOUND,
        "asset_id",
    ),
    (
        "transfer of nothing",
        c.Transfer(ALICE, 99, USD, 0, 1),
        Reason.AMOUNT_INVALID,
        "amount_units",
    ),
    (
        "transfer without an id",
        c.Transfer(ALICE, 0, USD, 1, 1),
        Reason.INVALID_ARGUMENT,
        "transfer_id",
    ),
    (
        "transfer to nobody",
        c.Transfer(0, 99, USD, 1, 1),
        Reason.INVALID_ARGUMENT,
        "account_id",
    ),
    (
        "late transfer",
        c.Transfer(ALICE, 99, USD, 1, 1, START_NS - 1),
        Reason.DEADLINE_PASSED,
        "deadline_ns",
    ),
    (
        "debit beyond what is free",
        c.Transfer(ALICE, 99, USD, -100_001, 2),
        Reason.INSUFFICIENT_BALANCE,
        "amount_units",
    ),
    (
        "debit of a stranger",
        c.Transfer(77, 99, USD, -1, 2),
        Reason.INSUFFICIENT_BALANCE,
        "amount_units",
    ),
    (
        "credit beyond an int64",
        c.Transfer(ALICE, 99, USD, INT64_MAX - 299_999, 1),
        Reason.BALANCE_OVERFLOW,
        "amount_units",
    ),
    ("switch of nobody", c.CancelAllAfter(0, 1), Reason.INVALID_ARGUMENT, "account_id"),
    ("switch before time", c.CancelAllAfter(ALICE, -1), Reason.INVALID_ARGUMENT, "at_ns"),
    ("stale epoch", c.BeginEpoch(epoch=0, writer="old"), Reason.FENCED, "epoch"),
    (
        "status of an unknown market",
        c.SetMarketStatus(0, 9, 1),
        Reason.MARKET_NOT_FOUND,
        "market_id",
    ),
    ("unknown status", c.SetMarketStatus(0, MARKET, 5), Reason.INVALID_ARGUMENT, "status"),
    ("tick by a user", c.Tick(ALICE), Reason.CALLER_NOT_ALLOWED, "account_id"),
    (
        "halt by a user",
        c.SetMarketStatus(ALICE, MARKET, 4),
        Reason.CALLER_NOT_ALLOWED,
        "account_id",
    ),
    ("cancel without an id", c.CancelOrder(ALICE), Reason.INVALID_ARGUMENT, "order_id"),
    ("cancel with two ids", c.CancelOrder(ALICE, 1, "x"), Reason.INVALID_ARGUMENT, "order_id"),
    ("cancel of the unknown", c.CancelOrder(ALICE, 5), Reason.ORDER_NOT_FOUND, "order_id"),
    (
        "cancel of an unknown client id",
        c.CancelOrder(ALICE, client_order_id="x"),
        Reason.ORDER_NOT_FOUND,
        "client_order_id",
    ),
    (
        "late cancel",
        c.CancelOrder(ALICE, 5, deadline_ns=START_NS - 1),
        Reason.DEADLINE_PASSED,
        "deadline_ns",
    ),
    (
        "cancel all in an unknown market",
        c.CancelAll(ALICE, 9),
        Reason.MARKET_NOT_FOUND,
        "market_id",
    ),
    ("cancel all of nobody", c.CancelAll(0), Reason.INVALID_ARGUMENT, "account_id"),
    ("amend of the unknown", c.AmendOrder(ALICE, 5), Reason.ORDER_NOT_FOUND, "order_id"),
    (
        "other lots",
        configure(lot_size_units=2, units_per_tick_lot=2),
        Reason.UNSUPPORTED,
        "markets",
    ),
    ("other name", configure(name="X"), Reason.UNSUPPORTED, "markets"),
    ("no markets any more", c.Configure(assets=configure().assets), Reason.UNSUPPORTED, "markets"),
    ("inexact notional", configure(units_per_tick_lot=2), Reason.INVALID_ARGUMENT, "markets"),
    ("fee nobody pays", configure(maker_fee_bps=-21), Reason.INVALID_ARGUMENT, "markets"),
    ("no assets", c.Configure(markets=configure().markets), Reason.INVALID_ARGUMENT, "markets"),
    (
        "other decimals",
        c.Configure(
            assets=(c.AssetConfig(USD, "USD", 2, 0), c.AssetConfig(BTC, "BTC", 0, 0)),
            markets=configure().markets,
        ),
        Reason.UNSUPPORTED,
        "assets",
    ),
    (
        "an asset twice",
        c.Configure(assets=(c.AssetConfig(1, "A", 0, 0), c.AssetConfig(2, "A", 0, 0))),
        Reason.INVALID_ARGUMENT,
        "assets",
    ),
]


@pytest.mark.parametrize(
    ("command", "reason", "field"),
    [case[1:] for case in SYSTEM_CASES],
    ids=[case[0] for case in SYSTEM_CASES],
)
def test_a_command_is_refused(command: c.Command, reason: Reason, field: str) -> None:
    refused = World().refusal(command)
    assert (Reason(refused.reason), refused.field) == (reason, field)


def test_an_amendment_is_held_to_the_limits_of_the_market() -> None:
    world = World()
    order_id = world.order(place(ALICE, "buy", 1, 1_000))
    for command, reason in (
        (c.AmendOrder(ALICE, order_id, "", 10_001), Reason.PRICE_OUT_OF_RANGE),
        (c.AmendOrder(ALICE, order_id, "", 9), Reason.NOTIONAL_TOO_SMALL),
        (c.AmendOrder(ALICE, order_id, "", 0, 1_001), Reason.QUANTITY_TOO_LARGE),
        (c.AmendOrder(ALICE, order_id, trigger_price_ticks=5), Reason.UNSUPPORTED),
        (c.AmendOrder(ALICE, order_id), Reason.AMEND_CHANGES_NOTHING),
    ):
        assert Reason(world.refusal(command).reason) == reason


def test_contracts_are_not_ordered_in_a_book() -> None:
    world = World(
        kind=k.MARKET_KIND_CFD, max_leverage=10, margin_tiers=(c.MarginTierConfig(0, 50, 10),)
    )
    refused = world.refusal(place(ALICE, "buy", 1, 1_000))
    assert (refused.reason, refused.field) == (Reason.UNSUPPORTED, "market_id")


def test_a_command_is_still_applied_at_its_deadline() -> None:
    world = World()
    world.order(place(ALICE, "buy", 1, 1_000, deadline_ns=world.now_ns))
    world.now_ns += SECOND
    assert world.refusal(c.CancelOrder(ALICE, 1, deadline_ns=world.now_ns - 1)).reason == (
        Reason.DEADLINE_PASSED
    )
