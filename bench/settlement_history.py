"""History queries of an account with very many orders: `python -m bench.settlement_history`.

Orders and fills of many accounts are generated inside a real PostgreSQL, over twelve months; a
tenth of them belongs to one account. Then that account asks for pages of 100 the way traders do:
the newest, by market, by status, by both, from a time on, and deep into the past by key; each page
is read and made into messages as a call would get them. The reference is the same of an account
with a thousand orders, in the same run. Progress goes to stderr, one JSON object per line to
stdout.

The whole measurement of 1,000,000 orders among 10,000,000: `--orders 10000000` (some minutes and
about 10 GB of disk while it runs).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from bench.support.report import emit, say
from ops.embedded import EmbeddedPostgres
from ops.migrate import migrate
from services.settlement import history
from services.settlement.catalog import Catalog
from services.settlement.store import reading
from services.settlement.store.partitions import Months
from services.settlement.store.reading import Span
from services.settlement.store.sessions import open_store
from tests.builders import make_settings

START_NS = 1_700_000_000_000_000_000
YEAR_NS = 365 * 86_400 * 10**9
BIG, SMALL, OTHERS = 5001, 5002, 900
PAGE = 100
CHUNK = 500_000

_CONFIGURATION = """
insert into assets values (1, 'USDC', 8, 6), (2, 'BTC', 8, 8);
insert into markets select m, 'M' || m || '_USDC', 1, 2, 1, 1000000, 1000
from generate_series(1, 15) m
"""
# One order in ten is the big account's; one in a hundred thousand expired, and nine in ten are of
# the first market: the rare ones are what an index must find.
_ORDERS = """
insert into closed_orders
select 0, n, {account}, case when n % 10 < 9 then 1 else 2 + n % 14 end, 'c' || n, 1 + n % 2, 1, 1,
    case when n % 100000 = 7 then 6 when n % 5 = 0 then 4 else 5 end, 5000000 + n % 1000, 1000, 0,
    0, 0, 0, false, false, 0, 0, 0, 0, 0, 0, $3 + n * $4, $3 + n * $4 + 1000000, n
from generate_series($1::bigint, $2::bigint) n
"""
_FILLS = """
insert into fills
select 0, case when n % 10 < 9 then 1 else 2 + n % 14 end, n, false, {account}, n, 1 + n % 2,
    5000000 + n % 1000, 1000, 5000000000, 5000000, $3 + n * $4, n
from generate_series($1::bigint, $2::bigint) n
"""
_ACCOUNT = (
    f"case when hashint8(n) % 10 = 0 then {BIG} when n % 1000 = 1 and n <= 1000000 then {SMALL}"
    f" else 6000 + n % {OTHERS} end"
)


async def fill_up(pool: asyncpg.Pool, orders: int) -> None:
    """Generate the history."""
    step_ns = YEAR_NS // orders
    async with pool.acquire() as connection:
        await connection.execute(_CONFIGURATION)
        await Months().ensure(connection, START_NS, START_NS + YEAR_NS)
        for first in range(1, orders + 1, CHUNK):
            last = min(first + CHUNK - 1, orders)
            for statement in (_ORDERS, _FILLS):
                await connection.execute(
                    statement.format(account=_ACCOUNT), first, last, START_NS, step_ns, timeout=900
                )
            say(f"{last} orders")
        await connection.execute("analyze closed_orders, fills", timeout=900)


def questions(chance: random.Random) -> dict[str, dict[str, Any]]:
    """Name -> how an account asks for a page of its orders."""
    when = START_NS + chance.randrange(YEAR_NS)
    nothing: dict[str, Any] = {"market_id": None, "status": None, "span": Span(), "before": None}
    return {
        "newest": nothing,
        "of a market": nothing | {"market_id": chance.randint(1, 15)},
        "of a status": nothing | {"status": chance.choice((4, 5, 6))},
        "of both": nothing | {"market_id": chance.randint(1, 15), "status": chance.choice((4, 6))},
        "of a day": nothing | {"span": Span(when, when + 86_400 * 10**9)},
        "deep": nothing | {"before": (when, 1, 0)},
    }


async def ask(pool: asyncpg.Pool, account_id: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each question, read and made into messages."""
    catalog, chance = Catalog(pool), random.Random(1)
    took: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, question in questions(chance).items():
            began = time.perf_counter()
            async with pool.acquire() as connection:
                rows = await reading.list_orders(connection, account_id, limit=PAGE + 1, **question)
            for row in rows[:PAGE]:
                await history.order_to_proto(catalog, row)
            took.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        fills = {key: value for key, value in question.items() if key not in ("status", "before")}
        began = time.perf_counter()
        async with pool.acquire() as connection:
            rows = await reading.list_fills(
                connection, account_id, order_id=None, before=None, limit=PAGE + 1, **fills
            )
        for row in rows[:PAGE]:
            await history.fill_to_proto(catalog, row)
        took.setdefault("fills", []).append((time.perf_counter() - began) * 1000)
    return took


async def measure(orders: int, rounds: int) -> None:
    """The whole measurement."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as name:
        postgres = EmbeddedPostgres(Path(name), durable=False)
        await postgres.start()
        try:
            await migrate(postgres.url, ("settlement",))
            pool = await open_store(make_settings(Path(name), postgres_url=postgres.url))
            try:
                await fill_up(pool, orders)
                say("asking")
                await ask(pool, BIG, 5)
                big, small = await ask(pool, BIG, rounds), await ask(pool, SMALL, rounds)
                owned = await pool.fetchval(
                    "select count(*) from closed_orders where account_id = $1", BIG
                )
            finally:
                await pool.close()
        finally:
            await postgres.stop()
    for what, times in big.items():
        emit(
            bench="settlement_history",
            orders=orders,
            of_the_account=owned,
            page=what,
            ms_p50=_cut(times, 50),
            ms_p99=_cut(times, 99),
            ms_p99_of_a_small_account=_cut(small[what], 99),
            p99_to_small=round(_cut(times, 99) / _cut(small[what], 99), 2),
        )


def _cut(times: list[float], percentile: int) -> float:
    return round(statistics.quantiles(times, n=100)[percentile - 1], 2)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    emit(
        bench="machine",
        python=platform.python_version(),
        cpus=os.cpu_count(),
        load=os.getloadavg()[0],
    )
    asyncio.run(measure(arguments.orders, arguments.rounds))


if __name__ == "__main__":
    main()
