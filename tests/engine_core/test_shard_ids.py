"""Ids carry the shard that its log's first command names."""

from __future__ import annotations

from kernel.markets import DEFAULT_ASSETS, default_markets
from kernel.reasons import Reason
from kernel.shards import ids_before, shard_of
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange

_NOW = 1_700_000_000 * 10**9


def exchange_of(shard: int) -> Exchange:
    exchange = Exchange()
    exchange.apply(c.BeginEpoch(epoch=1, shard=shard), _NOW)
    exchange.apply(configuration(DEFAULT_ASSETS, default_markets()), _NOW)
    exchange.apply(c.Transfer(7, 1, 1, 10**15, k.TRANSFER_KIND_DEPOSIT), _NOW)
    return exchange


def order_id(exchange: Exchange) -> int:
    order = c.PlaceOrder(
        7,
        1,
        side=k.SIDE_BUY,
        type=k.ORDER_TYPE_LIMIT,
        time_in_force=k.TIME_IN_FORCE_GTC,
        price_ticks=5_000_000,
        quantity_lots=100,
    )
    placed = exchange.apply(order, _NOW)[0]
    assert isinstance(placed, e.OrderPlaced)
    return placed.order_id


def test_ids_of_shard_0_are_as_ever_and_those_of_others_are_theirs() -> None:
    assert order_id(exchange_of(0)) == 1
    last = exchange_of(31)
    assert (order_id(last), order_id(last)) == (ids_before(31) + 1, ids_before(31) + 2)
    assert shard_of(ids_before(31) + 1) == 31
    # Even the last of all is a number in JSON.
    assert ids_before(32) <= 1 << 53


def test_ids_go_on_after_a_snapshot_and_a_new_writer() -> None:
    exchange = exchange_of(3)
    order_id(exchange)
    again = Exchange.restore(exchange.snapshot())
    again.apply(c.BeginEpoch(epoch=2, shard=3), _NOW)
    assert order_id(again) == ids_before(3) + 2


def test_a_writer_of_another_shard_is_refused() -> None:
    for exchange, shard in ((exchange_of(0), 1), (exchange_of(1), 0), (exchange_of(1), 2)):
        refused = exchange.apply(c.BeginEpoch(epoch=2, shard=shard), _NOW)[0]
        assert isinstance(refused, e.CommandRefused) and refused.reason == Reason.WRONG_SHARD
    refused = Exchange().apply(c.BeginEpoch(epoch=1, shard=32), _NOW)[0]
    assert isinstance(refused, e.CommandRefused) and refused.reason == Reason.INVALID_ARGUMENT
