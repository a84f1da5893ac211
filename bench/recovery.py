"""Recovery from a snapshot, and what taking one costs the leader: `python -m bench.recovery`.

A log of resting orders is written to a real Valkey and a snapshot of its end is made by the process
that the engine starts for it. Then a real engine process is started on both (time until healthy,
and until the state was back), and single orders are acknowledged at a steady pace without and with
a snapshot being taken. Progress goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tidebook.engine.v1 import log_pb2

from bench.support.report import emit, milliseconds, say
from kernel.markets import DEFAULT_ASSETS, default_markets
from mesh.config import environment_of
from mesh.log import LogWriter
from mesh.redis import open_redis
from ops.embedded import EmbeddedValkey
from services.engine import compiled, logcodec
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.engine.snapshots import SnapshotStore
from tests.support.engine import EngineRig, Trader, engine_rig

ACCOUNTS = 10_000
ENTRY = 1000
PACE_SECONDS = 0.005


async def write_log(rig: EngineRig, orders: int) -> None:
    """The log of an exchange with `orders` resting orders of many accounts in all markets."""
    redis = open_redis(rig.settings)
    writer = LogWriter(redis, rig.settings.shard)
    exchange = Exchange()
    now_ns = time.time_ns()

    async def append(commands: list[c.Command]) -> None:
        entry = log_pb2.LogEntry(seq=writer.next_seq, epoch=1, time_ns=now_ns)
        for command in commands:
            events = exchange.apply(command, now_ns)
            seq = exchange.last_command_seq
            logcodec.add_command(entry, command, events, command_seq=seq, received_ns=now_ns)
        await writer.append(entry.SerializeToString(deterministic=True))

    setup = configuration(DEFAULT_ASSETS, default_markets())
    await append([c.BeginEpoch(epoch=1, writer="bench"), setup])
    accounts = min(ACCOUNTS, orders)
    await append([c.Transfer(n, 1_000_000 + n, 1, 10**14, 1) for n in range(1, accounts + 1)])
    views = exchange.markets()
    markets = [view.config for view in views if view.config.kind == k.MARKET_KIND_SPOT]
    for first in range(0, orders, ENTRY):
        batch: list[c.Command] = []
        for number in range(first, min(first + ENTRY, orders)):
            market = markets[number % len(markets)]
            price = market.max_price_ticks // 1_000_000 + number % 5000 + 1
            lots = market.min_quantity_lots
            lots = max(lots, -(-market.min_notional_units // (price * market.units_per_tick_lot)))
            batch.append(
                c.PlaceOrder(
                    1 + number % accounts,
                    market.market_id,
                    f"order-{number}",
                    k.SIDE_BUY,
                    k.ORDER_TYPE_LIMIT,
                    k.TIME_IN_FORCE_GTC,
                    price,
                    lots,
                )
            )
        await append(batch)
    await redis.aclose()
    if exchange.open_order_count() != orders:
        raise SystemExit(f"only {exchange.open_order_count()} of {orders} orders rest")


async def take_snapshot(rig: EngineRig) -> float:
    """Seconds that the snapshot process took."""
    began = time.perf_counter()
    with rig.log_path.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.engine.snapshot"),
            env=os.environ | environment_of(rig.settings, {}),
            stdout=output,
            stderr=output,
        )
        if await process.wait():
            raise SystemExit(f"the snapshot failed, see {rig.log_path}")
    return time.perf_counter() - began


def recovery_seconds(rig: EngineRig) -> float:
    """What the newest recovery took, by the engine's own log."""
    lines = rig.log_path.read_text().splitlines()
    ends = [json.loads(line) for line in lines if '"recovery_finished"' in line]
    return float(ends[-1]["seconds"])


async def acknowledge(trader: Trader, stop: asyncio.Event) -> list[float]:
    """Seconds to the acknowledgement of single orders, one every `PACE_SECONDS`, until `stop`."""
    took = []
    while not stop.is_set():
        began = time.perf_counter()
        answer = await trader.place(price="1", quantity="1")
        took.append(time.perf_counter() - began)
        await trader.cancel(answer.order.order_id)
        await asyncio.sleep(max(0.0, began + PACE_SECONDS - time.perf_counter()))
    return took


async def measure(orders: int, data_dir: Path) -> None:
    """All figures of one size of book."""
    valkey = EmbeddedValkey(data_dir, fsync="everysec")
    await valkey.start()
    try:
        async with engine_rig(data_dir, valkey.url, log_format="json") as rig:
            say(f"{orders} orders: writing their log")
            await write_log(rig, orders)
            gc.collect()
            say("taking the first snapshot: a replay of everything")
            replay = await take_snapshot(rig)
            store = SnapshotStore.of(rig.settings)
            size = store.path(store.positions()[-1]).stat().st_size
            say("starting an engine on it")
            began = time.perf_counter()
            await rig.spawn()
            healthy = time.perf_counter() - began
            recovered = recovery_seconds(rig)
            emit(
                bench="recovery",
                open_orders=orders,
                seconds=recovered,
                seconds_until_healthy=round(healthy, 2),
                snapshot_bytes_per_order=round(size / orders),
                replay_process_seconds=round(replay, 2),
            )
            await measure_pause(rig, orders)
    finally:
        await valkey.stop()


async def measure_pause(rig: EngineRig, orders: int) -> None:
    """Time to acknowledgement with and without a snapshot process beside the leader."""
    trader = await rig.funded(999_999)
    quiet, busy = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_later(5, quiet.set)
    say("acknowledging single orders without a snapshot")
    without = await acknowledge(trader, quiet)
    say("acknowledging single orders while a snapshot is taken")
    during = asyncio.create_task(acknowledge(trader, busy))
    seconds = await take_snapshot(rig)
    busy.set()
    took = await during
    emit(
        bench="pause",
        open_orders=orders,
        snapshot_seconds=round(seconds, 2),
        acknowledged=len(took),
        ack_ms_p50=milliseconds(took, 50),
        ack_ms_p99=milliseconds(took, 99),
        ack_ms_p50_without=milliseconds(without, 50),
        ack_ms_p99_without=milliseconds(without, 99),
        pause_ms_p99=round(milliseconds(took, 99) - milliseconds(without, 99), 2),
    )


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    emit(
        bench="machine",
        python=platform.python_version(),
        cpus=os.cpu_count(),
        load=os.getloadavg()[0],
        core_compiled=compiled.is_compiled(),
    )
    for orders in arguments.orders:
        data_dir = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
        try:
            asyncio.run(measure(orders, data_dir))
        finally:
            shutil.rmtree(data_dir, ignore_errors=True)


if __name__ == "__main__":
    main()
