"""What a seeded day of trading comes to, as one hash: `python -m tests.engine_core.digest SEED N`.

Prints whether the core is compiled, and a hash over every event and the state at the end. Commands
are of every kind and often refused.
"""

from __future__ import annotations

import hashlib
import random
import sys

from services.engine.compiled import is_compiled
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from tests.engine_core.world import BTC, MARKET, SECOND, START_NS, USD, configure

ACCOUNTS = range(1, 9)


def random_command(rng: random.Random, number: int, last_id: int, now_ns: int) -> c.Command:
    """Any command; the ids it names are of orders that may live, have lived or never did."""
    account_id = rng.choice(ACCOUNTS)
    order_id = rng.randint(max(1, last_id - 30), last_id + 1)
    name = rng.choice(("", "", f"n{number}", f"n{max(0, number - rng.randint(1, 60))}"))
    price = rng.choice((0, rng.randint(980, 1_020), rng.randint(980, 1_020), 20_000))
    roll = rng.random()
    if roll < 0.6:
        return c.PlaceOrder(
            account_id,
            rng.choice((MARKET, MARKET, MARKET, 9)) if roll < 0.1 else MARKET,
            name,
            rng.choice((k.SIDE_BUY, k.SIDE_SELL)),
            k.ORDER_TYPE_LIMIT if price else k.ORDER_TYPE_MARKET,
            rng.choice((0, 0, 0, 1, 1, 2, 3, 4)) if price else 0,
            price,
            0 if price == 0 and roll > 0.4 else rng.randint(0, 30),
            rng.randint(1, 30_000) if price == 0 and roll > 0.35 else 0,
            post_only=rng.random() < 0.1,
            display_quantity_lots=rng.randint(1, 5) if rng.random() < 0.1 else 0,
            self_trade_prevention=rng.randint(0, 4),
            expire_ns=0 if rng.random() < 0.8 else now_ns + rng.randint(-1, 90) * SECOND,
            stream_id=rng.choice((0, 7)),
        )
    if roll < 0.75:
        return c.CancelOrder(account_id, 0 if name else order_id, name)
    if roll < 0.9:
        lots = rng.randint(0, 40)
        return c.AmendOrder(account_id, 0 if name else order_id, name, price, lots)
    if roll < 0.93:
        return c.CancelAll(account_id, rng.choice((0, MARKET)), rng.choice((0, 1, 2)))
    if roll < 0.95:
        return c.CancelAllAfter(account_id, rng.choice((0, now_ns + 20 * SECOND)))
    if roll < 0.97:
        return c.Tick()
    return c.SetMarketStatus(market_id=MARKET, status=rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 3, 4)))


def digest(seed: int, commands: int) -> str:
    """Hash over all events and the last state; it is snapshot and restored on the way."""
    rng = random.Random(seed)
    exchange = Exchange()
    exchange.apply(configure(max_open_orders=40), START_NS)
    for transfer_id in range(1, 2 * len(ACCOUNTS) + 1):
        account_id = 1 + transfer_id // 2 % len(ACCOUNTS)
        asset_id, units = (USD, 2_000_000) if transfer_id % 2 else (BTC, 2_000)
        exchange.apply(c.Transfer(account_id, transfer_id, asset_id, units, 1), START_NS)
    seen = hashlib.sha256()
    now_ns, last_id = START_NS, 0
    for number in range(commands):
        now_ns += rng.randint(0, SECOND)
        for event in exchange.apply(random_command(rng, number, last_id, now_ns), now_ns):
            if isinstance(event, e.OrderPlaced):
                last_id = event.order_id
            seen.update(repr(event).encode())
        if number % 1000 == 999:
            exchange.check_invariants()
            exchange = Exchange.restore(exchange.snapshot())
    seen.update(exchange.snapshot())
    return seen.hexdigest()


if __name__ == "__main__":
    print(is_compiled(), digest(int(sys.argv[1]), int(sys.argv[2])))
