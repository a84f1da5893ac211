"""Wiring of the settlement service."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
import structlog
from tidebook.settlement.v1 import history_pb2_grpc, internal_pb2_grpc, ledger_pb2_grpc

from kernel.clock import SystemClock
from mesh.aio import Backoff, cancel_and_wait, supervise
from mesh.channel import open_channel
from mesh.config import LEDGER_PART, Settings
from mesh.garbage import collect_rarely
from mesh.redis import open_redis
from mesh.revocation import EndedSessions
from mesh.server import ServiceHost, run_service
from mesh.telemetry import SpanRecorder
from mesh.tokens import TokenVerifier, signing_keys_from
from services.settlement.catalog import Catalog
from services.settlement.engine_client import EngineClient, EngineClients
from services.settlement.lifecycle import LifecycleWorker
from services.settlement.reconciliation import Reconciliation
from services.settlement.servicer_history import HistoryServicer
from services.settlement.servicer_internal import InternalServicer
from services.settlement.servicer_ledger import LedgerServicer
from services.settlement.shards import ShardBooks
from services.settlement.store.database import is_passing, text_of
from services.settlement.store.sessions import open_store
from services.settlement.transfers import Transfers, TransferWorker

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish the batch under way and close."""
    # What a batch makes dies with it.
    collect_rarely()
    pool = await _pool(_with_connections(settings), stop)
    if pool is None:
        return
    clock = SystemClock()
    redis = open_redis(settings)
    recorder = SpanRecorder("settlement", redis, settings)
    auth = open_channel(settings, "auth", caller="settlement")
    shards = settings.shard_map.numbers
    channels = {
        shard: open_channel(
            settings, "engine", caller="settlement", address=settings.address_of("engine", shard)
        )
        for shard in shards
    }
    catalog = Catalog(pool)
    transfers = Transfers(pool, catalog, settings, clock)
    clients = {shard: EngineClient(channel, shard) for shard, channel in channels.items()}
    engines = EngineClients(clients)
    # One for each shard: an engine that does not answer keeps nobody else waiting.
    workers = {
        shard: TransferWorker(
            pool, catalog, engines, settings, clock, transfers.written, shard=shard
        )
        for shard in shards
    }
    halted = asyncio.Event()
    books = [
        ShardBooks.build(
            *(shard, pool, redis, clients[shard], settings, recorder, clock, halted.set)
        )
        for shard in shards
    ]
    tasks = [supervise(job, name) for shard in books for name, job in shard.jobs().items()]
    tasks += [
        supervise(worker.run(), f"transfer worker of shard {shard}")
        for shard, worker in workers.items()
    ]
    lifecycle = LifecycleWorker(pool, settings, clock)
    tasks.append(supervise(lifecycle.run(), "lifecycle worker"))
    ended = EndedSessions(redis, clock)
    tasks.append(supervise(ended.run(), "ended sessions"))
    host = None
    try:
        for shard_books in books:
            await _first(shard_books.applier.ready.wait(), stop.wait())
        if not stop.is_set():
            host = await ServiceHost.start(
                settings,
                service="settlement",
                public=[
                    (
                        ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                        LedgerServicer(
                            pool,
                            catalog,
                            transfers,
                            Reconciliation(pool, {one.shard: one.reader for one in books}, clock),
                            books,
                            lifecycle,
                        ),
                    ),
                    (
                        history_pb2_grpc.add_HistoryServiceServicer_to_server,
                        HistoryServicer(pool, catalog),
                    ),
                ],
                internal=[
                    (
                        internal_pb2_grpc.add_SettlementInternalServiceServicer_to_server,
                        InternalServicer(pool, {one.shard: one.halts for one in books}),
                    )
                ],
                verifier=TokenVerifier(signing_keys_from(auth), ended=ended),
            )
            await host.set_serving(True)
            await host.set_serving(not halted.is_set(), LEDGER_PART)
            await _first(halted.wait(), stop.wait())
            if halted.is_set():
                # Reads go on being answered, so the service as a whole stays in service.
                await host.set_serving(False, LEDGER_PART)
            await stop.wait()
    finally:
        if host is not None:
            await host.drain()
        await cancel_and_wait(*tasks)
        await recorder.close()
        await auth.close()
        await asyncio.gather(*(channel.close() for channel in channels.values()))
        await redis.aclose()
        await pool.close()


def _with_connections(settings: Settings) -> Settings:
    """Archiver and applier of each shard keep a connection; calls must find some beside them."""
    more = 2 * (len(settings.shard_map) - 1)
    return settings.model_copy(update={"postgres_pool_max": settings.postgres_pool_max + more})


async def _pool(settings: Settings, stop: asyncio.Event) -> asyncpg.Pool | None:
    """The database, waited for; None when told to stop meanwhile."""
    backoff = Backoff(first_seconds=0.2, most_seconds=5.0)
    while not stop.is_set():
        try:
            return await open_store(settings)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("settlement_waits_for_database", job="start", error=text_of(error))
            await _first(backoff.wait(), stop.wait())
    return None


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await cancel_and_wait(*tasks)


def main() -> None:
    """`tidebook serve settlement`."""
    run_service(run, "settlement")


if __name__ == "__main__":
    main()
