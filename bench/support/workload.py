"""The mix that books are compared on, the same for ours and others': plain rows of numbers.

55 % limit orders, 35 % cancels of live orders and 10 % market orders around a moving mid, by seed.
Buyers and sellers are different accounts, so that a book without self-trade prevention does the
same trades. Order ids are those that our core gives.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from kernel.markets import DEFAULT_ASSETS, default_markets
from services.engine.domain import events as e
from services.engine.domain.commands import CancelOrder, Command, PlaceOrder, Transfer
from services.engine.domain.configuration import configuration
from services.engine.domain.constants import (
    ORDER_TYPE_LIMIT,
    ORDER_TYPE_MARKET,
    SIDE_BUY,
    SIDE_SELL,
    TIME_IN_FORCE_GTC,
    TIME_IN_FORCE_IOC,
)
from services.engine.domain.exchange import Exchange

SEED = 20_260_101
MARKET_ID = 1
START_NS = 1_700_000_000_000_000_000
MID_TICKS = 5_000_000
# Kinds of a row.
CANCEL, LIMIT, MARKET = 0, 1, 2
# The first of the accounts of each side and kind; there are so many of each.
_FIRST = {(LIMIT, SIDE_BUY): 1, (LIMIT, SIDE_SELL): 101, (MARKET, SIDE_BUY): 201}
_FIRST[(MARKET, SIDE_SELL)] = 221
_MANY = {LIMIT: 100, MARKET: 20}
ACCOUNTS = range(1, 241)


class Row(NamedTuple):
    """One operation. A cancel has kind, order and account only; a market order no price."""

    kind: int
    order_id: int
    account_id: int
    side: int
    price_ticks: int
    quantity_lots: int


def open_exchange() -> Exchange:
    """An exchange with the default markets and rich accounts."""
    exchange = Exchange()
    exchange.apply(configuration(DEFAULT_ASSETS, default_markets()), START_NS)
    for account_id in ACCOUNTS:
        for asset_id in (1, 2):
            transfer = Transfer(account_id, 2 * account_id + asset_id, asset_id, 10**16, 1)
            exchange.apply(transfer, START_NS)
    return exchange


def command_of(row: Sequence[int]) -> Command:
    """The command that does what a row says."""
    kind, order_id, account_id, side, price_ticks, quantity_lots = row
    if kind == CANCEL:
        return CancelOrder(account_id, order_id)
    limit = kind == LIMIT
    return PlaceOrder(
        account_id,
        MARKET_ID,
        side=side,
        type=ORDER_TYPE_LIMIT if limit else ORDER_TYPE_MARKET,
        time_in_force=TIME_IN_FORCE_GTC if limit else TIME_IN_FORCE_IOC,
        price_ticks=price_ticks,
        quantity_lots=quantity_lots,
    )


def build_rows(operations: int) -> list[Row]:
    """The rows of the mix; they run on an exchange once, to know which orders live."""
    rng = random.Random(SEED)
    exchange = open_exchange()
    rows: list[Row] = []
    owners: dict[int, int] = {}
    live: list[int] = []
    mid = MID_TICKS
    next_id = 1
    while len(rows) < operations:
        mid += rng.choice((0, 0, 0, 1, -1))
        roll = rng.random()
        side = rng.choice((SIDE_BUY, SIDE_SELL))
        if 0.55 <= roll < 0.90:
            order_id = _take_live(rng, live, owners)
            if not order_id:
                continue
            row = Row(CANCEL, order_id, owners[order_id], 0, 0, 0)
        else:
            kind = LIMIT if roll < 0.55 else MARKET
            away = rng.randint(1, 60)
            price = mid - away if side == SIDE_BUY else mid + away
            account_id = _FIRST[kind, side] + rng.randrange(_MANY[kind])
            lots = rng.randint(100, 1_000 if kind == LIMIT else 1_400)
            row = Row(kind, next_id, account_id, side, price if kind == LIMIT else 0, lots)
        events = exchange.apply(command_of(row), START_NS)
        if isinstance(events[0], e.CommandRefused):
            # A market order that met nothing has no number.
            continue
        rows.append(row)
        for event in events:
            if isinstance(event, e.OrderPlaced):
                next_id = event.order_id + 1
                if event.rested_lots:
                    owners[event.order_id] = event.account_id
                    live.append(event.order_id)
            elif isinstance(event, e.OrderClosed):
                owners.pop(event.order_id, None)
    return rows


def _take_live(rng: random.Random, live: list[int], owners: dict[int, int]) -> int:
    """A random live order, taken out of the list; 0 if there is none."""
    while live:
        at = rng.randrange(len(live))
        live[at], live[-1] = live[-1], live[at]
        order_id = live.pop()
        if order_id in owners:
            return order_id
    return 0
