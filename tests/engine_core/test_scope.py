"""A preview runs on a copy of what the order can meet; it must come to what the order comes to."""

from __future__ import annotations

import random

import pytest

from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from tests.engine_core.digest import ACCOUNTS, random_command
from tests.engine_core.world import ALICE, BOB, BTC, SECOND, START_NS, USD, World, configure, place


@pytest.mark.parametrize("seed", range(6))
def test_an_order_comes_to_the_same_on_the_copy(seed: int) -> None:
    rng = random.Random(seed)
    exchange = Exchange()
    exchange.apply(configure(max_open_orders=12), START_NS)
    for number in range(2 * len(ACCOUNTS)):
        asset_id, units = (USD, 500_000) if number % 2 else (BTC, 400)
        transfer = c.Transfer(ACCOUNTS[number // 2], number + 1, asset_id, units, 1)
        exchange.apply(transfer, START_NS)
    now_ns, last_id, compared = START_NS, 0, 0
    for number in range(1_500):
        now_ns += rng.randint(0, SECOND)
        command = random_command(rng, number, last_id, now_ns)
        tried = None
        if isinstance(command, c.PlaceOrder):
            command.client_order_id = ""
            before = exchange.last_command_seq, exchange.state_hash() if number % 50 == 0 else b""
            tried = exchange.copy_for(command).apply(command, now_ns)
            if number % 50 == 0:
                assert before == (exchange.last_command_seq, exchange.state_hash())
        events = exchange.apply(command, now_ns)
        if isinstance(events[0], e.OrderPlaced):
            last_id = events[0].order_id
            compared += 1
        assert tried is None or tried == events
    assert compared > 150


def test_the_copy_has_no_more_than_the_order_can_meet() -> None:
    world = World()
    for price in range(1_001, 1_005):
        world.order(place(BOB, "sell", 1, price))
    buy = place(ALICE, "buy", 1, 1_100)
    # Bob's others come with the first, because they count for him; a stranger's far ones do not.
    assert world.exchange.copy_for(buy).open_order_count() == 4
    world.deposit(99, BTC, 10)
    world.order(place(99, "sell", 1, 1_090))
    assert world.exchange.copy_for(buy).open_order_count() == 4
    passive = place(ALICE, "buy", 500, 900)
    assert world.exchange.copy_for(passive).open_order_count() == 4
    market = c.PlaceOrder(ALICE, buy.market_id, "", k.SIDE_BUY, k.ORDER_TYPE_MARKET, 0, 0, 5)
    assert world.exchange.copy_for(market).open_order_count() == 5
