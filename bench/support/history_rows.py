"""A year of history made inside PostgreSQL: orders, fills, positions, CFDs, liquidations, entries.

Rows are in the order of their time over thirteen month partitions, as they would have come. A tenth
belongs to one account. What an index must find is rare: one order in a hundred thousand expired,
nine in ten are of the first market. The indexes are built after the rows, which is several times
quicker; their definitions are those that the migrations left.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from bench.support.report import say
from services.settlement.store.database import Connection
from services.settlement.store.partitions import Months

BIG, SMALL, OTHERS = 5001, 5002, 900
MARKETS = 15
YEAR_NS = 365 * 86_400 * 10**9
_CHUNK = 500_000
_TIMEOUT_SECONDS = 3600.0
_TABLES = (
    "closed_orders",
    "fills",
    "closed_positions",
    "closed_cfds",
    "liquidations",
    "ledger_transactions",
    "ledger_entries",
)

_CONFIGURATION = f"""
insert into assets values (1, 'USDC', 8, 6), (2, 'BTC', 8, 8);
insert into markets select m, 'M' || m || '_USDC', 1, 2, 1, 1000000, 1000
from generate_series(1, {MARKETS}) m;
insert into ledger_accounts select 0, a, s, 1, 1000000
from unnest(array[{BIG}, {SMALL}]) a, unnest(array[1, 2]) s
"""
_ACCOUNT = (
    f"case when hashint8(n) % 10 = 0 then {BIG} when n % 1000 = 1 and n <= 1000000 then {SMALL}"
    f" else 6000 + n % {OTHERS} end"
)
_MARKET = f"case when n % 10 < 9 then 1 else 2 + n % {MARKETS - 1} end"
# Row number n is of the time first + n * step; $3 and $4.
_TIME = "($3::bigint + n * $4::bigint)"
_OF_CHUNK = "from generate_series($1::bigint, $2::bigint) n"
_ORDER = (
    "'c' || n, 1 + n % 2, 1, 1, {status}, 5000000 + n % 1000, 1000, 0, 0, 0, 0, false, false, 0, 0,"
    f" 0, 0, 0, 0, {_TIME}, {_TIME} + 1000000, n"
)
_ORDERS = (
    f"insert into closed_orders select 0, n, {_ACCOUNT}, {_MARKET}, "
    + _ORDER.format(
        status="case when n % 100000 = 7 then 6 when n % 5 = 0 then 4 else 5 end",
    )
    + f" {_OF_CHUNK}",
)
_FILLS = (
    f"insert into fills select 0, {_MARKET}, n, false, {_ACCOUNT}, n, 1 + n % 2,"
    f" 5000000 + n % 1000, 1000, 5000000000, 5000000, {_TIME}, n {_OF_CHUNK}",
)
# A hundredth as many of each, and the entries of every tenth order.
_REST = (
    f"insert into closed_positions select 0, {_ACCOUNT}, {_MARKET}, 1000, 5000000000, 5001000000,"
    f" 1000000, 5000000, false, {_TIME} - 1000000, {_TIME}, n, 0 {_OF_CHUNK} where n % 100 = 3",
    f"insert into closed_cfds select 0, n, {_ACCOUNT}, {_MARKET}, '', 1 + n % 2, 5000000000,"
    f" 50000000000, 10, 5000000, 4600000, 0, 0, 5000000, {_TIME} - 1000000, n, 5001000, 10000000,"
    f" 5005000000, 1, {_TIME} {_OF_CHUNK} where n % 100 = 3",
    f"insert into liquidations select 0, n, {_ACCOUNT}, {_MARKET}, 0, 1, 1000, 5000000000,"
    " 500000000, 4600000, 4500000, 1000, 4500000000, 0, 0, 50, 50, 5000000, 0, n, '{}', '{}',"
    f" '{{}}', {_TIME}, n {_OF_CHUNK} where n % 100 = 3",
    f"insert into ledger_transactions select 0, n, n, 0, 3, n, {_TIME} {_OF_CHUNK}"
    " where n % 10 = 1",
    f"insert into ledger_entries select 0, 2 * n + k, n, {_TIME}, {_ACCOUNT},"
    f" 1 + (n / 10) % 2, 1 + k, 1000 - 2000 * k, 1000000, n {_OF_CHUNK}, generate_series(0, 1) k"
    " where n % 10 = 1",
)
_OPEN = (
    f"insert into open_orders select 0, n, case when n % 100 = 0 then {BIG} when n % 1000 = 1"
    f" then {SMALL} else 6000 + n % {OTHERS} end, {_MARKET}, "
    + _ORDER.format(status="2")
    + f" {_OF_CHUNK}"
)


async def fill_up(pool: asyncpg.Pool, orders: int) -> int:
    """Make the history of `orders` ended orders; returns the time of the first one."""
    now_ns = time.time_ns()
    start_ns, step_ns = now_ns - YEAR_NS, YEAR_NS // orders
    async with pool.acquire() as connection:
        await connection.execute(_CONFIGURATION)
        await Months().ensure(connection, start_ns, now_ns)
        restore = await _drop_indexes(connection)

    async def insert(name: str, statements: tuple[str, ...]) -> None:
        async with pool.acquire() as connection:
            for first in range(1, orders + 1, _CHUNK):
                last = min(first + _CHUNK - 1, orders)
                for text in statements:
                    await connection.execute(
                        text, first, last, start_ns, step_ns, timeout=_TIMEOUT_SECONDS
                    )
                say(f"{name}: {last} of {orders}")

    await asyncio.gather(
        *(insert(*job) for job in (("orders", _ORDERS), ("fills", _FILLS), ("others", _REST)))
    )
    waiting = orders // 500
    async with pool.acquire() as connection:
        await connection.execute(_OPEN, orders + 1, orders + waiting, start_ns, step_ns)

    async def build(statements: list[str]) -> None:
        async with pool.acquire() as connection:
            await connection.execute("set maintenance_work_mem = '256MB'")
            while statements:
                text = statements.pop()
                say(text)
                await connection.execute(text, timeout=_TIMEOUT_SECONDS)
            await connection.execute("reset maintenance_work_mem")

    # Indexes of one table can be built side by side, but constraints lock it.
    await asyncio.gather(*(build(statements) for statements in restore.values()))
    # Also says which pages are visible to all, as the server does by itself in time.
    say("vacuum")
    async with pool.acquire() as connection:
        await connection.execute(
            f"vacuum (analyze) {', '.join(_TABLES)}, open_orders", timeout=_TIMEOUT_SECONDS
        )
    return start_ns


async def _drop_indexes(connection: Connection) -> dict[str, list[str]]:
    """Drop the indexes of the tables that are filled; table -> what makes them again."""
    rows = await connection.fetch(
        "select t.relname, x.relname as name, con.conname, pg_get_indexdef(i.indexrelid) as index,"
        " pg_get_constraintdef(con.oid) as constraint"
        " from pg_index i join pg_class t on t.oid = i.indrelid"
        " join pg_class x on x.oid = i.indexrelid"
        " left join pg_constraint con on con.conindid = i.indexrelid and con.conrelid = t.oid"
        " where t.relname = any($1) and t.relkind = 'p'",
        _TABLES,
    )
    restore: dict[str, list[str]] = {}
    for table, name, constraint, index, definition in rows:
        if constraint is None:
            await connection.execute(f"drop index {name}")
            text = index.replace(" ON ONLY ", " ON ")
        else:
            await connection.execute(f"alter table {table} drop constraint {constraint}")
            text = f"alter table {table} add constraint {constraint} {definition}"
        restore.setdefault(table, []).append(text)
    return restore
