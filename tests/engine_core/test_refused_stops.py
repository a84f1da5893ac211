"""Every refusal of a stop, or of a pair of orders, has its own reason and field."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from tests.engine_core.world import ALICE, BOB, MARKET, World, place

BASE: dict[str, Any] = {"market_id": MARKET, "side": k.SIDE_BUY, "quantity_lots": 1}
STOP_LIMIT_CASES: list[tuple[str, dict[str, Any], Reason, str]] = [
    (
        "no trigger",
        {"trigger_price_ticks": 0},
        Reason.TRIGGER_PRICE_REQUIRED,
        "trigger_price_ticks",
    ),
    (
        "negative trigger",
        {"trigger_price_ticks": -1},
        Reason.PRICE_OUT_OF_RANGE,
        "trigger_price_ticks",
    ),
    (
        "trigger too high",
        {"trigger_price_ticks": 10_001},
        Reason.PRICE_OUT_OF_RANGE,
        "trigger_price_ticks",
    ),
    (
        "reached",
        {"trigger_price_ticks": 1_000},
        Reason.TRIGGER_ON_WRONG_SIDE,
        "trigger_price_ticks",
    ),
    ("unknown source", {"trigger_source": 3}, Reason.INVALID_ARGUMENT, "trigger_source"),
    ("trailing", {"trailing_bps": 1}, Reason.INVALID_ARGUMENT, "trailing_bps"),
    ("no price", {"price_ticks": 0}, Reason.PRICE_REQUIRED, "price_ticks"),
    ("price too high", {"price_ticks": 10_001}, Reason.PRICE_OUT_OF_RANGE, "price_ticks"),
    ("no quantity", {"quantity_lots": 0}, Reason.QUANTITY_REQUIRED, "quantity_lots"),
    ("quantity too large", {"quantity_lots": 1_001}, Reason.QUANTITY_TOO_LARGE, "quantity_lots"),
    ("amount", {"quote_amount_units": 1}, Reason.INVALID_ARGUMENT, "quote_amount_units"),
    ("slippage", {"max_slippage_bps": 1}, Reason.INVALID_ARGUMENT, "max_slippage_bps"),
    (
        "unknown time in force",
        {"time_in_force": 5},
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        "time_in_force",
    ),
    (
        "post-only FOK",
        {"post_only": True, "time_in_force": k.TIME_IN_FORCE_FOK},
        Reason.INVALID_ARGUMENT,
        "post_only",
    ),
    (
        "GTD without expiry",
        {"time_in_force": k.TIME_IN_FORCE_GTD},
        Reason.INVALID_ARGUMENT,
        "expire_ns",
    ),
    ("beyond the balance", {"quantity_lots": 100}, Reason.INSUFFICIENT_BALANCE, "quantity_lots"),
]
STOP_MARKET_CASES: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("price", {"price_ticks": 1_000}, Reason.PRICE_NOT_ALLOWED, "price_ticks"),
    ("amount", {"quote_amount_units": 1}, Reason.INVALID_ARGUMENT, "quote_amount_units"),
    ("post-only", {"post_only": True}, Reason.INVALID_ARGUMENT, "post_only"),
    (
        "slippage above all",
        {"max_slippage_bps": 10_001},
        Reason.INVALID_ARGUMENT,
        "max_slippage_bps",
    ),
    ("iceberg", {"display_quantity_lots": 1}, Reason.INVALID_ARGUMENT, "display_quantity_lots"),
    (
        "notional too small",
        {"trigger_price_ticks": 9, "side": k.SIDE_SELL},
        Reason.NOTIONAL_TOO_SMALL,
        "quantity_lots",
    ),
    ("notional too large", {"quantity_lots": 1_000}, Reason.NOTIONAL_TOO_LARGE, "quantity_lots"),
]
TRAILING_CASES: list[tuple[str, dict[str, Any], Reason, str]] = [
    ("no distance", {"trailing_bps": 0}, Reason.INVALID_ARGUMENT, "trailing_bps"),
    ("distance above all", {"trailing_bps": 10_001}, Reason.INVALID_ARGUMENT, "trailing_bps"),
    (
        "nothing left to fire at",
        {"trailing_bps": 10_000, "side": k.SIDE_SELL},
        Reason.PRICE_OUT_OF_RANGE,
        "trailing_bps",
    ),
    ("trigger", {"trigger_price_ticks": 1_100}, Reason.INVALID_ARGUMENT, "trigger_price_ticks"),
]
STOP_CASES = [
    (f"{kind} {name}", fields, changes, reason, field)
    for kind, fields, cases in (
        (
            "STOP_LIMIT",
            {"type": k.ORDER_TYPE_STOP_LIMIT, "price_ticks": 1_010, "trigger_price_ticks": 1_001},
            STOP_LIMIT_CASES,
        ),
        (
            "STOP_MARKET",
            {"type": k.ORDER_TYPE_STOP_MARKET, "trigger_price_ticks": 1_001},
            STOP_MARKET_CASES,
        ),
        (
            "TRAILING_STOP",
            {"type": k.ORDER_TYPE_TRAILING_STOP, "trailing_bps": 100},
            TRAILING_CASES,
        ),
    )
    for name, changes, reason, field in cases
]


@pytest.mark.parametrize(
    ("fields", "changes", "reason", "field"),
    [case[1:] for case in STOP_CASES],
    ids=[case[0] for case in STOP_CASES],
)
def test_a_stop_is_refused(
    fields: dict[str, Any], changes: dict[str, Any], reason: Reason, field: str
) -> None:
    world = World()
    world.order(place(BOB, "buy", 1, 1_000))
    world.order(place(ALICE, "sell", 1, 1_000))
    refused = world.refusal(c.PlaceOrder(ALICE, **{**BASE, **fields, **changes}))
    assert (refused.reason, refused.field) == (reason, field)


PAIR_CASES: list[tuple[str, dict[str, Any], dict[str, Any], Reason, str]] = [
    ("unknown market", {"market_id": 9}, {}, Reason.MARKET_NOT_FOUND, "first.market_id"),
    ("side", {}, {"side": k.SIDE_SELL}, Reason.INVALID_ARGUMENT, "second.side"),
    ("quantity", {}, {"quantity_lots": 2}, Reason.INVALID_ARGUMENT, "second.quantity_lots"),
    (
        "first stop",
        {"type": k.ORDER_TYPE_MARKET, "price_ticks": 0},
        {},
        Reason.ORDER_TYPE_NOT_SUPPORTED,
        "first.type",
    ),
    (
        "IOC",
        {"time_in_force": k.TIME_IN_FORCE_IOC},
        {},
        Reason.TIME_IN_FORCE_NOT_SUPPORTED,
        "first.time_in_force",
    ),
    ("no price", {"price_ticks": 0}, {}, Reason.PRICE_REQUIRED, "first.price_ticks"),
    (
        "no trigger",
        {},
        {"trigger_price_ticks": 0},
        Reason.TRIGGER_PRICE_REQUIRED,
        "second.trigger_price_ticks",
    ),
    (
        "prices",
        {"price_ticks": 1_020},
        {},
        Reason.TRIGGER_ON_WRONG_SIDE,
        "second.trigger_price_ticks",
    ),
    (
        "one id",
        {"client_order_id": "a"},
        {"client_order_id": "a"},
        Reason.DUPLICATE_CLIENT_ORDER_ID,
        "second.client_order_id",
    ),
    (
        "known id",
        {"client_order_id": "used"},
        {},
        Reason.DUPLICATE_CLIENT_ORDER_ID,
        "first.client_order_id",
    ),
    (
        "balance",
        {"quantity_lots": 100},
        {"quantity_lots": 100},
        Reason.INSUFFICIENT_BALANCE,
        "first.quantity_lots",
    ),
]


@pytest.mark.parametrize(
    ("first", "second", "reason", "field"),
    [case[1:] for case in PAIR_CASES],
    ids=[case[0] for case in PAIR_CASES],
)
def test_a_pair_is_refused(
    first: dict[str, Any], second: dict[str, Any], reason: Reason, field: str
) -> None:
    world = World()
    world.order(place(ALICE, "buy", 1, 900, client_order_id="used"))
    one = {**BASE, "type": k.ORDER_TYPE_LIMIT, "price_ticks": 990}
    two = {**BASE, "type": k.ORDER_TYPE_STOP_MARKET, "trigger_price_ticks": 1_010}
    refused = world.refusal(
        c.PlaceOco(ALICE, c.PlaceOrder(**{**one, **first}), c.PlaceOrder(**{**two, **second}))
    )
    assert (refused.reason, refused.field) == (reason, field)


def test_a_pair_is_placed_once() -> None:
    world = World()
    one = {**BASE, "type": k.ORDER_TYPE_LIMIT, "price_ticks": 990, "client_order_id": "one"}
    two = {**BASE, "type": k.ORDER_TYPE_STOP_MARKET, "trigger_price_ticks": 1_010}
    for second_id in ("", "two"):
        pair = c.PlaceOco(
            BOB if second_id else ALICE,
            c.PlaceOrder(**one),
            c.PlaceOrder(**two, client_order_id=second_id),
        )
        first = world.do(pair)[0]
        assert isinstance(first, e.OrderPlaced)
        assert world.do(pair) == [e.CommandRepeated(first.order_id, 0)]
