"""Memory per open order, and throughput with ever more of them: `python -m bench.scale`.

Each size is a process of its own: it opens so many resting orders of many accounts in one market,
says what they take (core alone, without read model), runs the same operations near the best prices
on top of them, and previews an order. One JSON object per size to stdout; the ratio of each is to
the smallest.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from bench.support.report import emit, say
from bench.support.workload import MARKET_ID, START_NS, open_exchange
from mesh.garbage import collect_rarely
from services.engine import compiled
from services.engine.domain.commands import CancelOrder, Command, PlaceOrder, Transfer
from services.engine.domain.constants import (
    ORDER_TYPE_LIMIT,
    SIDE_BUY,
    SIDE_SELL,
    TIME_IN_FORCE_GTC,
    TIME_IN_FORCE_IOC,
)

ROOT = Path(__file__).resolve().parent.parent
# Below what an account may have open in a market.
ORDERS_PER_ACCOUNT = 100
FIRST_ACCOUNT = 1_000
MID_TICKS = 5_000_000
TRADERS = (1, 2)
PREVIEWS = 20


def measure(orders: int, operations: int) -> dict[str, object]:
    """One size, in this process."""
    rng = random.Random(7)
    exchange = open_exchange()
    accounts = -(-orders // ORDERS_PER_ACCOUNT)
    for number in range(2 * accounts):
        account_id, asset_id = FIRST_ACCOUNT + number // 2, 1 + number % 2
        transfer = Transfer(account_id, 1_000_000 + number, asset_id, 10**14, 1)
        exchange.apply(transfer, START_NS)
    gc.collect()
    before = _resident_bytes()
    for number in range(orders):
        side = SIDE_BUY if number % 2 else SIDE_SELL
        away = rng.randint(1_000, 50_000)
        price = MID_TICKS - away if side == SIDE_BUY else MID_TICKS + away
        account_id = FIRST_ACCOUNT + number % accounts
        exchange.apply(_limit(account_id, side, price, f"order-{number}"), START_NS)
    gc.collect()
    taken = _resident_bytes() - before
    assert exchange.open_order_count() == orders
    commands = _near_the_mid(operations, orders)
    collect_rarely()
    began = time.process_time()
    for command in commands:
        exchange.apply(command, START_NS)
    seconds = time.process_time() - began
    assert exchange.open_order_count() == orders
    trial = _limit(TRADERS[0], SIDE_BUY, MID_TICKS + 50_000, "")
    began = time.process_time()
    for _ in range(PREVIEWS):
        exchange.copy_for(trial).apply(trial, START_NS)
    previews = time.process_time() - began
    return {
        "open_orders": orders,
        "bytes_per_order": round(taken / orders),
        "operations_per_cpu_second": round(len(commands) / seconds),
        "preview_cpu_ms": round(previews / PREVIEWS * 1000, 2),
    }


def _near_the_mid(operations: int, orders: int) -> list[Command]:
    """Rounds of an order, one that takes half of it, and a cancel of the rest."""
    maker, taker = TRADERS
    commands: list[Command] = []
    next_id = orders + 1
    for number in range(operations // 3):
        price = MID_TICKS - number % 500
        commands.append(_limit(maker, SIDE_BUY, price, f"near-{number}"))
        commands.append(_limit(taker, SIDE_SELL, price, "", 500, TIME_IN_FORCE_IOC))
        commands.append(CancelOrder(maker, next_id))
        next_id += 2
    return commands


def _limit(
    account_id: int,
    side: int,
    price_ticks: int,
    name: str,
    lots: int = 1_000,
    time_in_force: int = TIME_IN_FORCE_GTC,
) -> PlaceOrder:
    return PlaceOrder(
        account_id,
        MARKET_ID,
        name,
        side,
        ORDER_TYPE_LIMIT,
        time_in_force,
        price_ticks,
        lots,
    )


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        # The most there ever was: near enough while memory only grows.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--orders", type=int, nargs="+", default=sizes)
    parser.add_argument("--operations", type=int, default=90_000)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        emit(**measure(options.orders[0], options.operations))
        return
    first = 0
    for orders in options.orders:
        say(f"{orders} open orders")
        command = [sys.executable, "-m", "bench.scale", "--one", "--orders", str(orders)]
        command += ["--operations", str(options.operations)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        result = json.loads(done.stdout)
        rate = result["operations_per_cpu_second"]
        first = first or rate
        emit(
            bench="scale",
            **result,
            ratio_to_smallest=round(rate / first, 2),
            core_compiled=compiled.is_compiled(),
            load_average=os.getloadavg()[0],
        )


if __name__ == "__main__":
    main()
