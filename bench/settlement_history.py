"""History queries of an account with very many orders: `python -m bench.settlement_history`.

A year of history is generated inside a real PostgreSQL; a tenth of it belongs to one account. Then
that account asks the way traders do: the newest page, by market, by status (also one that hardly
any order has, or none), by several of these, of a day, of an hour, deep into the past by page
tokens. Each call goes through gRPC to the real service method and back, in this process. The
reference is the same of an account with a thousand orders, in the same run.

Beside the time of a call (which on a busy machine is mostly waiting) there is the CPU that it took:
of this process, client included, and of the database. Progress goes to stderr, one JSON object per
line to stdout.

The whole measurement of 1,000,000 orders among 10,000,000: `--orders 10000000` (some minutes and
about 10 GB of disk while it runs; `--data-dir` keeps the filled database there for other runs).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.engine.v1 import types_pb2
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc

from bench.support.history_rows import BIG, MARKETS, SMALL, YEAR_NS, fill_up
from bench.support.report import emit, milliseconds, say
from mesh.garbage import collect_rarely
from mesh.server import ServiceHost
from mesh.tokens import TokenSigner, TokenVerifier
from ops.embedded import EmbeddedPostgres
from ops.migrate import migrate
from services.settlement.catalog import Catalog
from services.settlement.servicer_history import HistoryServicer
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.support import free_ports

DAY_NS = 86_400 * 10**9
FILLED, CANCELLED = types_pb2.ORDER_STATUS_FILLED, types_pb2.ORDER_STATUS_CANCELLED
# One order in a hundred thousand, and none.
RARE, NONE = types_pb2.ORDER_STATUS_EXPIRED, types_pb2.ORDER_STATUS_REJECTED
Request = Any


@dataclass(frozen=True, slots=True)
class Account:
    """Asks for one account's history."""

    account_id: int
    stub: history_pb2_grpc.HistoryServiceStub
    metadata: tuple[tuple[str, str], ...]

    async def ask(self, request: Request) -> Any:
        """The answer to any request of the service."""
        method = getattr(self.stub, type(request).__name__.removesuffix("Request"))
        return await method(request, metadata=self.metadata, timeout=60)


def _time(time_ns: int) -> Timestamp:
    result = Timestamp()
    result.FromNanoseconds(time_ns)
    return result


def questions(start_ns: int, chance: random.Random) -> dict[str, Callable[[], Request]]:
    """Name -> makes a request. Of those whose name begins with "deep" it is the second page that is
    measured, of "one order" the order that they find.
    """

    def when() -> int:
        return start_ns + chance.randrange(YEAR_NS - 2 * DAY_NS)

    def during(length_ns: int) -> dict[str, Timestamp]:
        start = when()
        return {"start_time": _time(start), "end_time": _time(start + length_ns)}

    def market() -> str:
        return f"M{chance.randint(2, MARKETS)}_USDC"

    orders: Callable[..., Request] = history_pb2.ListOrdersRequest
    fills: Callable[..., Request] = history_pb2.ListFillsRequest
    return {
        "orders: newest": orders,
        "orders: newest 500": lambda: orders(page_size=500),
        "orders: common market": lambda: orders(market="M1_USDC"),
        "orders: rare market": lambda: orders(market=market()),
        "orders: filled": lambda: orders(status=FILLED),
        "orders: cancelled": lambda: orders(status=CANCELLED),
        "orders: rare status": lambda: orders(status=RARE),
        "orders: a status that none has": lambda: orders(status=NONE),
        "orders: open": lambda: orders(status=types_pb2.ORDER_STATUS_OPEN),
        "orders: rare market, filled": lambda: orders(market=market(), status=FILLED),
        "orders: rare market, rare status": lambda: orders(market=market(), status=RARE),
        "orders: of a day": lambda: orders(**during(DAY_NS)),
        "orders: of an hour": lambda: orders(**during(DAY_NS // 24)),
        "orders: of a day, market, filled": lambda: orders(
            market="M1_USDC", status=FILLED, **during(DAY_NS)
        ),
        "orders: until a time": lambda: orders(end_time=_time(when())),
        "deep orders": lambda: orders(end_time=_time(when())),
        "deep orders: rare market": lambda: orders(market=market(), end_time=_time(when())),
        "one order": lambda: orders(page_size=1, end_time=_time(when())),
        "fills: newest": fills,
        "fills: rare market": lambda: fills(market=market()),
        "fills: of a day": lambda: fills(**during(DAY_NS)),
        "deep fills": lambda: fills(end_time=_time(when())),
        "positions: newest": history_pb2.ListPositionsRequest,
        "positions: rare market": lambda: history_pb2.ListPositionsRequest(market=market()),
        "cfds: newest": history_pb2.ListCfdsRequest,
        "liquidations: newest": history_pb2.ListLiquidationsRequest,
        "liquidations: rare market": lambda: history_pb2.ListLiquidationsRequest(market=market()),
    }


@dataclass(slots=True)
class Taken:
    """What the calls of one kind took."""

    seconds: list[float]
    process_ms: float
    database_ms: float
    rows: float


def _database_cpu_ns(pids: list[int]) -> int:
    """What the server's processes have used (Linux)."""
    with contextlib.suppress(OSError):
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)
    return 0


async def measure_kind(
    pool: asyncpg.Pool, account: Account, name: str, make: Callable[[], Request], rounds: int
) -> Taken:
    """Ask `rounds` times."""
    requests = [make() for _ in range(rounds)]
    if name.startswith("deep"):
        for request in requests:
            request.page_token = (await account.ask(request)).next_page_token
    elif name == "one order":
        requests = [
            history_pb2.GetOrderRequest(order_id=(await account.ask(request)).orders[0].order_id)
            for request in requests
        ]
    rows = await pool.fetch("select pid from pg_stat_activity where state is not null")
    pids = [row[0] for row in rows]
    seconds, found = [], 0
    process, database = time.process_time(), _database_cpu_ns(pids)
    for request in requests:
        began = time.perf_counter()
        answer = await account.ask(request)
        seconds.append(time.perf_counter() - began)
        rows_of = next(field for field in answer.DESCRIPTOR.fields if field.is_repeated)
        found += len(getattr(answer, rows_of.name))
    process, database = time.process_time() - process, _database_cpu_ns(pids) - database
    return Taken(
        seconds, process * 1000 / rounds, database / 1e6 / rounds, round(found / rounds, 1)
    )


async def export(account: Account) -> dict[str, float]:
    """The whole history of orders as CSV: rows a second, and how much the memory grew."""
    pieces: Any = account.stub.ExportHistory(
        history_pb2.ExportHistoryRequest(kind=history_pb2.HISTORY_KIND_ORDERS),
        metadata=account.metadata,
    )
    rows, began, first_kib, most_kib = -1, time.perf_counter(), 0, 0
    cpu = time.process_time()
    async for piece in pieces:
        rows += piece.csv.count("\n")
        first_kib = first_kib or _resident_kib()
        most_kib = max(most_kib, _resident_kib())
    seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "rows_per_second": round(rows / seconds),
        "process_cpu_us_per_row": round((time.process_time() - cpu) / rows * 1e6, 1),
        "memory_grew_mib": round((most_kib - first_kib) / 1024, 1),
    }


def _resident_kib() -> int:
    with contextlib.suppress(OSError):
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 10
        )
    return 0


@contextlib.asynccontextmanager
async def serving(
    postgres_url: str, data_dir: Path
) -> AsyncIterator[tuple[asyncpg.Pool, Callable[[int], Account]]]:
    """The history service on a socket; (its connections, account id -> who asks for it)."""
    base = free_ports([0, 100])
    settings = make_settings(data_dir, postgres_url=postgres_url, settlement_port=base)
    pool = await open_store(settings)
    signer = TokenSigner(Ed25519PrivateKey.generate(), "k1")

    async def keys() -> dict[str, bytes]:
        return {signer.kid: signer.public_key}

    host = await ServiceHost.start(
        settings,
        service="settlement",
        public=[
            (
                history_pb2_grpc.add_HistoryServiceServicer_to_server,
                HistoryServicer(pool, Catalog(pool)),
            )
        ],
        verifier=TokenVerifier(keys),
    )
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{base}")
    stub = history_pb2_grpc.HistoryServiceStub(channel)

    def account(account_id: int) -> Account:
        token = signer.sign(
            user_id="u",
            account_id=account_id,
            session_id=f"s{account_id}",
            scopes=["read"],
            ttl_seconds=3600,
        )
        return Account(account_id, stub, (("authorization", f"Bearer {token}"),))

    try:
        yield pool, account
    finally:
        await channel.close()
        await host.drain()
        await pool.close()


async def measure(orders: int, rounds: int, data_dir: Path) -> None:
    """The whole measurement."""
    postgres = EmbeddedPostgres(data_dir, durable=False)
    await postgres.start()
    try:
        await migrate(postgres.url, ("settlement",))
        async with serving(postgres.url, data_dir) as (pool, account):
            if not await pool.fetchval("select exists (select from closed_orders)"):
                await fill_up(pool, orders)
            start_ns = await pool.fetchval("select min(created_ns) from closed_orders")
            orders = await pool.fetchval("select count(*) from closed_orders", timeout=600)
            count = "select count(*) from closed_orders where account_id = $1"
            owned = await pool.fetchval(count, BIG, timeout=600)
            big, small = account(BIG), account(SMALL)
            for name, make in questions(start_ns, random.Random(1)).items():
                await measure_kind(pool, big, name, make, 10)
                ours = await measure_kind(pool, big, name, make, rounds)
                reference = await measure_kind(pool, small, name, make, rounds)
                emit(
                    bench="settlement_history",
                    orders=orders,
                    of_the_account=owned,
                    query=name,
                    rows=ours.rows,
                    ms_p50=milliseconds(ours.seconds, 50),
                    ms_p99=milliseconds(ours.seconds, 99),
                    process_cpu_ms=round(ours.process_ms, 2),
                    database_cpu_ms=round(ours.database_ms, 2),
                    small_account_ms_p99=milliseconds(reference.seconds, 99),
                    p50_to_small=round(
                        statistics.median(ours.seconds) / statistics.median(reference.seconds), 2
                    ),
                )
            say("exporting")
            emit(bench="settlement_export", **await export(big))
    finally:
        await postgres.stop()


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data-dir", type=Path)
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
    with contextlib.ExitStack() as stack:
        data_dir = arguments.data_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp"))
        )
        collect_rarely()
        asyncio.run(measure(arguments.orders, arguments.rounds, data_dir))


if __name__ == "__main__":
    main()
