"""Operations per second of the engine's core alone: `python -m bench.core`.

One seeded workload of 55 % limit orders, 35 % cancels of live orders and 10 % market orders around
a moving mid, with every fill reported. The core does all of its work (checks, holds, fees, client
ids, events); the naive second book of the tests, which only matches, stands beside it as the stated
reference. Progress goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import sys
import time

from kernel.markets import DEFAULT_ASSETS, default_markets
from services.engine.domain import events as ev
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
from tests.engine_core.naive import NaiveBook, NaiveOrder

SEED = 20_260_101
MAKERS = range(1, 101)
TAKERS = range(101, 121)
MARKET_ID = 1
START_NS = 1_700_000_000_000_000_000


def open_exchange() -> Exchange:
    """An exchange with the default markets and rich accounts."""
    exchange = Exchange()
    exchange.apply(configuration(DEFAULT_ASSETS, default_markets()), START_NS)
    transfer_id = 0
    for account_id in (*MAKERS, *TAKERS):
        for asset_id in (1, 2):
            transfer_id += 1
            exchange.apply(Transfer(account_id, transfer_id, asset_id, 10**16, 1), START_NS)
    return exchange


def build_workload(operations: int) -> list[Command]:
    """The commands of the mix; they run on an exchange once, to know which orders live."""
    rng = random.Random(SEED)
    exchange = open_exchange()
    commands: list[Command] = []
    owners: dict[int, int] = {}
    live: list[int] = []
    mid = 5_000_000
    while len(commands) < operations:
        mid += rng.choice((0, 0, 0, 1, -1))
        roll = rng.random()
        side = rng.choice((SIDE_BUY, SIDE_SELL))
        command: Command
        if roll < 0.55:
            away = rng.randint(1, 60)
            command = PlaceOrder(
                rng.choice(MAKERS),
                MARKET_ID,
                side=side,
                type=ORDER_TYPE_LIMIT,
                time_in_force=TIME_IN_FORCE_GTC,
                price_ticks=mid - away if side == SIDE_BUY else mid + away,
                quantity_lots=rng.randint(100, 1_000),
            )
        elif roll < 0.90:
            order_id = _take_live(rng, live, owners)
            if not order_id:
                continue
            command = CancelOrder(owners[order_id], order_id)
        else:
            command = PlaceOrder(
                rng.choice(TAKERS),
                MARKET_ID,
                side=side,
                type=ORDER_TYPE_MARKET,
                time_in_force=TIME_IN_FORCE_IOC,
                quantity_lots=rng.randint(100, 1_400),
            )
        for event in exchange.apply(command, START_NS):
            if isinstance(event, ev.OrderPlaced) and event.rested_lots:
                owners[event.order_id] = event.account_id
                live.append(event.order_id)
            elif isinstance(event, ev.OrderClosed):
                owners.pop(event.order_id, None)
        commands.append(command)
    return commands


def _take_live(rng: random.Random, live: list[int], owners: dict[int, int]) -> int:
    """A random live order, taken out of the list; 0 if there is none."""
    while live:
        at = rng.randrange(len(live))
        live[at], live[-1] = live[-1], live[at]
        order_id = live.pop()
        if order_id in owners:
            return order_id
    return 0


def run_core(commands: list[Command]) -> dict[str, object]:
    """The whole core."""
    exchange = open_exchange()
    apply = exchange.apply
    reported = 0
    gc.collect()
    started = time.perf_counter()
    for command in commands:
        reported += len(apply(command, START_NS))
    seconds = time.perf_counter() - started
    exchange.check_invariants()
    return _result(
        "core",
        len(commands),
        seconds,
        events=reported,
        trades=exchange.markets()[MARKET_ID - 1].last_trade_id,
        open_orders=exchange.open_order_count(),
        compiled=not ev.__file__.endswith(".py"),
    )


def run_naive(commands: list[Command]) -> dict[str, object]:
    """The naive book on the same commands, order ids counted as the core counts them."""
    book = NaiveBook()
    last_id = trades = 0
    started = time.perf_counter()
    for command in commands:
        if isinstance(command, PlaceOrder):
            last_id += 1
            far = 10**12 if command.side == SIDE_BUY else 0
            order = NaiveOrder(
                last_id,
                command.account_id,
                command.side,
                command.price_ticks or far,
                command.quantity_lots,
            )
            trades += len(book.trade(order)[0])
            if order.remaining and command.type == ORDER_TYPE_LIMIT:
                book.rest(order)
        elif isinstance(command, CancelOrder):
            book.cancel(command.order_id)
    return _result("naive", len(commands), time.perf_counter() - started, trades=trades)


def _result(name: str, operations: int, seconds: float, **more: object) -> dict[str, object]:
    rate = round(operations / seconds)
    return {"bench": name, "operations": operations, "operations_per_second": rate, **more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--naive-operations", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    _say("building the workload")
    commands = build_workload(options.operations)
    results = []
    for number in range(options.rounds):
        _say(f"core, round {number + 1} of {options.rounds}")
        results.append(run_core(commands))
    core = max(results, key=lambda result: int(str(result["operations_per_second"])))
    core["rounds"] = [result["operations_per_second"] for result in results]
    _say("naive book, the first operations of the same workload")
    naive = run_naive(commands[: options.naive_operations])
    ratio = int(str(core["operations_per_second"])) / int(str(naive["operations_per_second"]))
    python = platform.python_version()
    for line in (core, naive, {"bench": "core/naive", "ratio": round(ratio, 1)}):
        print(json.dumps({**line, "seed": SEED, "python": python}))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
