"""How fast the ledger follows the log: `python -m bench.settlement`.

A producer process runs the engine's core over a mix of 55 % limit orders, 35 % cancels and 10 %
market orders and appends its entries to a real Valkey (`appendfsync always`), a little ahead of
the ledger. This process archives and applies them to a real PostgreSQL. First as fast as it goes;
then the producer keeps to 80 % of that, and the lag is the age of the oldest entry that is not
applied. The reference, in the same run, is the bare COPY of as many ledger entries, with no log, no
order and no check. What a thousand orders cost in CPU, process by process, says more than the rate
where others use the machine too. Progress goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import structlog
from tidebook.engine.v1 import log_pb2

from bench.support.cpu import cpu_seconds
from bench.support.report import emit, say
from bench.support.workload import ACCOUNTS, build_rows, command_of
from kernel.markets import DEFAULT_ASSETS, default_markets
from mesh.config import Settings
from mesh.garbage import collect_rarely
from mesh.log import LogReader, LogWriter
from mesh.redis import open_redis
from ops.embedded import EmbeddedPostgres, EmbeddedValkey
from ops.migrate import migrate
from services.engine import logcodec
from services.engine.domain.commands import Command, Transfer
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.settlement.support import Settlement

# Commands in an entry: what group commit makes under load.
ENTRY = 200
# How many entries the producer may be ahead of the ledger: as much as an engine would be let.
AHEAD = 400
FIRST_ACCOUNT = 1000
APPLIED_KEY = "bench:applied"
# Seconds that the producer has used for entries with orders.
PRODUCED_KEY = "bench:produced"


# ---------------------------------------------------------------- the producer


def batches(operations: int) -> Iterator[list[Command]]:
    """Configuration and funds, then the mix."""
    accounts = [FIRST_ACCOUNT + number for number in ACCOUNTS]
    yield [configuration(DEFAULT_ASSETS, default_markets())]
    yield [
        Transfer(account_id, 2 * number + asset_id, asset_id, 10**16, 1)
        for number, account_id in enumerate(accounts)
        for asset_id in (1, 2)
    ]
    # The first accounts are the exchange's own.
    commands = [
        command_of(row._replace(account_id=row.account_id + FIRST_ACCOUNT))
        for row in build_rows(operations)
    ]
    for start in range(0, len(commands), ENTRY):
        yield commands[start : start + ENTRY]


async def produce(redis_url: str, data_dir: Path, operations: int, per_second: float) -> None:
    """Append the mix; `per_second` commands, 0 for as fast as the ledger follows."""
    redis = open_redis(make_settings(data_dir, redis_url=redis_url))
    writer, exchange = LogWriter(redis, 0), Exchange()
    # Made before the clock runs, or the producer would have to catch up.
    entries, done, cpu_began = list(batches(operations)), 0, 0.0
    began = time.monotonic()
    for commands in entries:
        cpu_began = cpu_began or (time.process_time() if writer.next_seq > 2 else 0.0)
        if per_second and (early := done / per_second - (time.monotonic() - began)) > 0:
            await asyncio.sleep(early)
        while not per_second and writer.next_seq > int(await redis.get(APPLIED_KEY) or 0) + AHEAD:
            await asyncio.sleep(0.005)
        now_ns = time.time_ns()
        entry = log_pb2.LogEntry(seq=writer.next_seq, epoch=1, time_ns=now_ns, taken_ns=now_ns)
        written = logcodec.open_commands()
        for command in commands:
            events = exchange.apply(command, now_ns)
            written.add(command, events, exchange.last_command_seq, now_ns, b"", b"")
        await writer.append(entry.SerializeToString() + written.getvalue())
        done += len(commands)
    await redis.set(PRODUCED_KEY, time.process_time() - cpu_began)
    await redis.aclose()


@contextlib.contextmanager
def producing(
    settings: Settings, operations: int, per_second: float
) -> Iterator[subprocess.Popen[bytes]]:
    """The producer as a process of its own."""
    process = subprocess.Popen(
        (
            *(sys.executable, "-m", "bench.settlement", "--produce", str(settings.redis_url)),
            *("--data-dir", str(settings.data_dir), "--per-second", str(per_second)),
            *("--operations", str(operations)),
        )
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- the measuring


@dataclass(frozen=True, slots=True)
class Stores:
    """Stores of a run, and where they are."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    settings: Settings

    def cpu(self) -> dict[str, float]:
        """Seconds used so far by this process and the stores."""
        return {
            "settlement": time.process_time(),
            "postgres": cpu_seconds(self.postgres.pid or 0),
            "log_store": cpu_seconds(self.valkey.pid or 0),
        }


@dataclass(slots=True)
class Run:
    """What a run did: seconds from the first order on, lags in ms, CPU seconds by process."""

    orders: int = 0
    postings: int = 0
    seconds: float = 0.0
    lags: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Orders per second."""
        return self.orders / self.seconds

    def cpu_per_thousand(self) -> dict[str, float]:
        """Milliseconds of CPU for a thousand orders, by process."""
        return {name: round(1e6 * used / self.orders, 1) for name, used in self.cpu.items()}


@contextlib.asynccontextmanager
async def stores() -> AsyncIterator[Stores]:
    """Durable stores of this run alone."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as name:
        data_dir = Path(name)
        postgres, valkey = EmbeddedPostgres(data_dir), EmbeddedValkey(data_dir)
        await asyncio.gather(postgres.start(), valkey.start())
        try:
            await migrate(postgres.url, ("settlement",))
            settings = make_settings(data_dir, postgres_url=postgres.url, redis_url=valkey.url)
            yield Stores(postgres, valkey, settings)
        finally:
            await asyncio.gather(postgres.stop(), valkey.stop())


async def counts(pool: asyncpg.Pool) -> tuple[int, int]:
    """(orders, postings) in the books."""
    orders = await pool.fetchval("select coalesce(max(order_id), 0) from orders")
    return orders, await pool.fetchval("select coalesce(max(last_entry_id), 0) from progress")


async def follow(
    run: Run, stores: Stores, settlement: Settlement, process: subprocess.Popen[bytes]
) -> None:
    """Until the producer has ended and everything is applied."""
    redis = settlement.redis
    reader, began, cpu = LogReader(redis, 0), 0.0, stores.cpu()
    while True:
        applied = await settlement.applied_seq()
        await redis.set(APPLIED_KEY, applied)
        if not began and applied > 2:
            began, cpu = time.monotonic(), stores.cpu()
        waiting = await reader.get(applied + 1)
        if waiting is None and process.poll() is not None:
            if process.returncode:
                raise SystemExit("the producer failed")
            run.seconds = time.monotonic() - began
            run.cpu = {name: used - cpu[name] for name, used in stores.cpu().items()}
            run.cpu["producer"] = float(await redis.get(PRODUCED_KEY) or 0)
            return
        age = 0.0
        if waiting is not None:
            age = (time.time_ns() - log_pb2.LogEntry.FromString(waiting.payload).time_ns) / 1e6
        if began:
            run.lags.append(age)
        await asyncio.sleep(0.02)


async def run_once(operations: int, per_second: float) -> Run:
    """One run on empty stores."""
    run = Run()
    async with stores() as own:
        redis, pool = open_redis(own.settings), await open_store(own.settings)
        settlement = Settlement(pool, redis)
        try:
            async with settlement.following():
                with producing(own.settings, operations, per_second) as producer:
                    await follow(run, own, settlement, producer)
            run.orders, run.postings = await counts(pool)
        finally:
            await pool.close()
            await redis.aclose()
    return run


async def bare_copy(postings: int) -> float:
    """Ledger entries per second by nothing but COPY into their table without checks."""
    async with stores() as own:
        pool = await open_store(own.settings)
        rows = [
            (0, n, n // 2, n, 1001 + n % 120, 1, 1 + n % 2, 1000 - 2000 * (n % 2), 5, n)
            for n in range(1, postings + 1)
        ]
        try:
            async with pool.acquire() as connection:
                await connection.execute(
                    "create table bare (like ledger_entries, primary key (shard, entry_id))"
                )
                began = time.monotonic()
                for start in range(0, postings, 5000):
                    await connection.copy_records_to_table(
                        "bare", records=rows[start : start + 5000]
                    )
                return postings / (time.monotonic() - began)
        finally:
            await pool.close()


async def measure(operations: int) -> None:
    """The whole measurement."""
    say(f"applying {operations} operations as fast as it goes")
    fastest = await run_once(operations, 0)
    postings = fastest.postings / fastest.seconds
    say("copying as many ledger entries")
    reference = await bare_copy(200_000)
    emit(
        bench="settlement_rate",
        operations=operations,
        orders_per_second=round(fastest.rate),
        postings_per_second=round(postings),
        bare_copy_entries_per_second=round(reference),
        postings_to_bare_copy=round(postings / reference, 3),
        cpu_ms_per_1000_orders=fastest.cpu_per_thousand(),
    )
    # The mix has about two orders in three operations.
    per_second = 0.8 * fastest.rate / 0.65
    say(f"the lag at {per_second:.0f} operations per second")
    steady = await run_once(operations, per_second)
    cuts = statistics.quantiles(steady.lags, n=100)
    emit(
        bench="settlement_lag",
        orders_per_second=round(steady.rate),
        of_sustained=round(steady.rate / fastest.rate, 2),
        lag_ms_p50=round(cuts[49], 1),
        lag_ms_p99=round(cuts[98], 1),
    )


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=120_000)
    parser.add_argument("--produce", metavar="REDIS_URL")
    parser.add_argument("--data-dir", type=Path, default=Path("."))
    parser.add_argument("--per-second", type=float, default=0)
    arguments = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if arguments.produce:
        asyncio.run(
            produce(
                arguments.produce, arguments.data_dir, arguments.operations, arguments.per_second
            )
        )
        return
    emit(
        bench="machine",
        python=platform.python_version(),
        cpus=os.cpu_count(),
        load=os.getloadavg()[0],
    )
    collect_rarely()
    asyncio.run(measure(arguments.operations))


if __name__ == "__main__":
    main()
