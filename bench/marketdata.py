"""Market data on its own: `python -m bench.marketdata`.

- `candles`: trades a second that one core builds all 16 intervals from; the stated reference is a
  plain dictionary of one-minute candles.
- `apply`: log entries a second that one replica applies and hands to 100 readers of a raw book,
  each reading every update as bytes, without the network; the stated reference is the same without
  readers.
- `memory`: kilobytes that a reader costs that is idle, and one that has stopped reading.
- `log_to_delta`: from the entry's time until a gRPC subscriber has the book's delta, with a real
  engine, log and service, for orders that come one at a time.

Progress goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from tidebook.engine.v1 import log_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from bench.support.report import emit, milliseconds, say
from bench.support.workload import START_NS, build_rows, command_of, open_exchange
from kernel.markets import DEFAULT_ASSETS, default_markets
from mesh.channel import cancelling
from ops.embedded import EmbeddedPostgres, EmbeddedValkey
from services.engine import logcodec
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.marketdata.book_streams import UPDATES_MAX, BookStreams, BookSubscription
from services.marketdata.domain.candles import CandleSeries, CandleSource
from services.marketdata.hub import Mailbox
from services.marketdata.projection import Projection
from tests.marketdata.rig import market_data_rig

MARKET = "BTC_USDC"
SUBSCRIBERS = 100
COMMANDS_PER_ENTRY = 10
SECOND_NS = 10**9


def rate(count: int, work: Callable[[], object]) -> int:
    """How many a second, of `count` that `work` does."""
    gc.collect()
    started = time.process_time()
    work()
    return round(count / (time.process_time() - started))


def candles(trades: int) -> None:
    """Candles of all intervals, against those of one."""
    rng = random.Random(1)
    rows = [
        (
            START_NS + number * SECOND_NS // 20,
            5_000_000 + rng.randint(-999, 999),
            rng.randint(1, 99),
        )
        for number in range(trades)
    ]
    series = CandleSeries(MARKET, CandleSource.CLOB)

    def all_intervals() -> None:
        for number, (time_ns, price, lots) in enumerate(rows):
            series.add(time_ns, price, lots, price * lots)
            if number % 100 == 0:
                series.take_changed()

    minutes: dict[int, list[int]] = {}

    def one_interval() -> None:
        for time_ns, price, lots in rows:
            minute = time_ns // (60 * SECOND_NS)
            candle = minutes.get(minute)
            if candle is None:
                candle = minutes[minute] = [price, price, price, price, 0, 0, 0]
            candle[1] = max(candle[1], price)
            candle[2] = min(candle[2], price)
            candle[3] = price
            candle[4] += lots
            candle[5] += price * lots
            candle[6] += 1

    ours, reference = rate(trades, all_intervals), rate(trades, one_interval)
    emit(
        bench="marketdata/candles",
        trades_per_second=ours,
        intervals=16,
        one_minute_dict_per_second=reference,
        of_16_dicts=round(ours / (reference / 16), 2),
    )


def build_entries(commands: int) -> list[log_pb2.LogEntry]:
    """What the log holds of a busy market."""
    exchange, entries = open_exchange(), list[log_pb2.LogEntry]()
    # The first entry is the configuration.
    entry = log_pb2.LogEntry(seq=2, time_ns=START_NS)
    for seq, row in enumerate(build_rows(commands), start=1):
        command = command_of(row)
        events = exchange.apply(command, START_NS)
        logcodec.add_command(entry, command, events, command_seq=seq, received_ns=1)
        if len(entry.commands) == COMMANDS_PER_ENTRY:
            entries.append(entry)
            entry = log_pb2.LogEntry(seq=len(entries) + 2, time_ns=START_NS)
    return entries


def opened() -> tuple[Projection, BookStreams]:
    """A replica that knows the markets."""
    projection = Projection()
    projection.loaded = True
    command = configuration(DEFAULT_ASSETS, default_markets())
    entry = log_pb2.LogEntry(seq=1, time_ns=START_NS)
    events = Exchange().apply(command, START_NS)
    logcodec.add_command(entry, command, events, command_seq=1, received_ns=1)
    projection.apply(entry)
    return projection, BookStreams(projection)


def reader(projection: Projection, streams: BookStreams) -> BookSubscription:
    """One reader of the raw book."""
    state = projection.markets[MARKET]
    return streams.open_levels(Mailbox(), [state], depth=50, rate=pb.BOOK_RATE_RAW, checksum=False)


def serve(entries: list[log_pb2.LogEntry], readers: int) -> tuple[int, int, int]:
    """(entries a second, updates, their bytes) with so many readers."""
    projection, streams = opened()
    subscriptions = [reader(projection, streams) for _ in range(readers)]
    sizes: list[int] = []

    def work() -> None:
        for entry in entries:
            streams.publish(projection.apply(entry))
            for subscription in subscriptions:
                if (response := subscription.drain()) is not None:
                    sizes.append(len(response.SerializeToString()))

    per_second = rate(len(entries), work)
    return per_second, len(sizes), sum(sizes)


def applying(entries: list[log_pb2.LogEntry]) -> None:
    """Entries a second with 100 readers, and with none."""
    alone, _, _ = serve(entries, 0)
    together, updates, sent = serve(entries, SUBSCRIBERS)
    emit(
        bench="marketdata/apply",
        subscribers=SUBSCRIBERS,
        entries_per_second=together,
        updates_per_second=round(updates / len(entries) * together),
        bytes_per_update=round(sent / updates),
        entries_per_second_alone=alone,
        of_alone=round(together / alone, 3),
    )


def memory(entries: list[log_pb2.LogEntry]) -> None:
    """What a reader costs that waits, and one that has stopped reading."""
    projection, streams = opened()
    for entry in entries[: len(entries) // 2]:
        streams.publish(projection.apply(entry))
    # The view itself is shared.
    first = reader(projection, streams)
    first.drain()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    idle = [reader(projection, streams) for _ in range(SUBSCRIBERS)]
    for one in idle:
        one.drain()
    gc.collect()
    idle_bytes = tracemalloc.get_traced_memory()[0] - before
    stuck = idle.pop()
    for one in idle:
        one.close()
    # As many updates as may wait; with the next one a snapshot takes their place.
    for entry in entries[len(entries) // 2 :][: UPDATES_MAX - 1]:
        streams.publish(projection.apply(entry))
        first.drain()
    gc.collect()
    waiting = tracemalloc.get_traced_memory()[0]
    stuck.drain()
    gc.collect()
    # The messages are everybody's: a hundred stuck readers keep no more of them alive than one.
    stuck_bytes = waiting - tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    emit(
        bench="marketdata/memory",
        idle_reader_kb=round(idle_bytes / SUBSCRIBERS / 1024, 2),
        stuck_reader_kb=round(stuck_bytes / 1024, 1),
        updates_that_wait_at_most=UPDATES_MAX,
    )


async def log_to_delta(orders: int) -> None:
    """Delay of single orders' deltas."""
    with tempfile.TemporaryDirectory(prefix="tb") as folder:
        valkey, postgres = EmbeddedValkey(Path(folder)), EmbeddedPostgres(Path(folder))
        async with contextlib.AsyncExitStack() as stack:
            for server in (valkey, postgres):
                await server.start()
                stack.push_async_callback(server.stop)
            rig = await stack.enter_async_context(
                market_data_rig(Path(folder) / "data", valkey.url, postgres.url)
            )
            await rig.engine.spawn()
            await rig.spawn()
            alice = await rig.engine.funded(1)
            delays: list[float] = []
            request = pb.WatchBookRequest(markets=["BTC_USDC"], rate=pb.BOOK_RATE_RAW)
            async with cancelling(rig.stub.WatchBook(request)) as call:
                await call.read()
                for number in range(orders):
                    await alice.place(side="buy", price=f"{90 + number % 9}", quantity="0.02")
                    response: Any = await call.read()
                    update = response.books[0]
                    now_ns = time.time_ns()
                    delays.append((now_ns - update.time.ToNanoseconds()) / 1e9)
            emit(
                bench="marketdata/log_to_delta",
                orders=orders,
                p50_ms=milliseconds(delays, 50),
                p99_ms=milliseconds(delays, 99),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    scale = 10 if parser.parse_args().quick else 1
    # What services of this process say is not a result.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    say("candles")
    candles(200_000 // scale)
    say("entries of a busy market")
    entries = build_entries(20_000 // scale)
    say("100 readers")
    applying(entries)
    memory(entries)
    say("engine, log, service and subscriber")
    asyncio.run(log_to_delta(max(50, 190 // scale)))


if __name__ == "__main__":
    main()
