"""Stores that go away and come back: settlement waits, says so, and goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing
from redis.asyncio import Redis
from tidebook.settlement.v1 import ledger_pb2, ledger_pb2_grpc

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.log import LogRecord
from mesh.redis import open_redis
from mesh.status import refused_from
from ops.embedded import EmbeddedPostgres, EmbeddedValkey
from ops.migrate import migrate
from ops.verify import make_report
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.settlement.rig import settlement_rig
from tests.settlement.support import (
    LogMaker,
    Settlement,
    Wire,
    endless_trading,
    settlement_process,
    trading,
)
from tests.support import eventually, free_ports

_TMPFS_MB = 200


@contextlib.asynccontextmanager
async def _on(postgres: EmbeddedPostgres, redis_url: str, data_dir: Path) -> AsyncIterator[Any]:
    """Settlement's parts on a database of the test's own."""
    await postgres.start()
    await migrate(postgres.url, ("settlement",))
    settings = make_settings(data_dir, postgres_url=postgres.url, redis_url=redis_url)
    redis = open_redis(settings)
    pool = await open_store(settings)
    try:
        yield Settlement(pool, redis), settings
    finally:
        pool.terminate()
        await redis.aclose()
        await postgres.stop()


async def _all_is_well(settlement: Settlement, settings: Settings, maker: LogMaker) -> None:
    await settlement.check_books(maker)
    report = await make_report(settings)
    assert report.differences == 0, [check.differences for check in report.checks]


async def test_a_restarted_postgres_is_waited_for(
    short_dir: Path, tmp_path: Path, valkey_url: str
) -> None:
    maker, postgres = LogMaker(), EmbeddedPostgres(short_dir)
    records = trading(maker, 120)
    async with _on(postgres, valkey_url, tmp_path) as (settlement, settings):
        wire = Wire(settlement.redis)
        with structlog.testing.capture_logs() as said:
            async with settlement.following():
                await wire.append(*records[:40])
                await eventually(lambda: _applied(settlement, 5))
                await postgres.stop()
                await wire.append(*records[40:80])
                await eventually(lambda: _waits(said), timeout_s=60.0)
                await postgres.start()
                await wire.append(*records[80:])
                await settlement.caught_up(maker, timeout_s=90.0)
        # Whatever is waited for has a name.
        assert all(line["error"] for line in said if line["event"].endswith("waits_for_database"))
        await _all_is_well(settlement, settings, maker)


async def test_a_restarted_log_store_is_waited_for(
    settings: Settings, settlement: Settlement, valkey_server: EmbeddedValkey
) -> None:
    settings = settings.model_copy(update={"redis_url": valkey_server.url})
    redis: Redis = open_redis(settings)
    settlement.redis = redis
    maker, wire = LogMaker(), Wire(redis)
    records = trading(maker, 60)
    try:
        async with settlement.following():
            await wire.append(*records[:30])
            await eventually(lambda: _applied(settlement, 5))
            await valkey_server.stop()
            with structlog.testing.capture_logs() as said:
                await eventually(
                    lambda: any(line["event"] == "log_follow_reconnects" for line in said),
                    timeout_s=30.0,
                )
            await valkey_server.start()
            await wire.append(*records[30:])
            await settlement.caught_up(maker, timeout_s=60.0)
        await _all_is_well(settlement, settings, maker)
    finally:
        await redis.aclose()


async def test_the_whole_service_goes_on_after_each_store_was_away(
    short_dir: Path, tmp_path: Path, valkey_server: EmbeddedValkey
) -> None:
    """Calls meanwhile say UNAVAILABLE or leave a transfer pending; none is lost or made twice."""
    postgres = EmbeddedPostgres(short_dir)
    async with (
        _on(postgres, valkey_server.url, tmp_path) as (settlement, settings),
        settlement_rig(settings, settlement.redis) as rig,
    ):
        client = rig.client(7)
        await client.deposit("USDC", "100", "before")
        with structlog.testing.capture_logs() as said:
            await postgres.stop()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.deposit("USDC", "100", "database-away")
            assert refused_from(refused.value).reason is Reason.UNAVAILABLE
            for event in ("transfers_wait_for_database", "reconciliation_waits"):
                await eventually(partial(_said, said, event))
            await postgres.start()
            await eventually(lambda: client.deposit("USDC", "100", "database-away"))
            await valkey_server.stop()
            away = await client.deposit("USDC", "100", "log-away")
            assert away.status == ledger_pb2.TRANSFER_STATUS_PENDING
            await eventually(lambda: _said(said, "log_follow_reconnects"))
            await valkey_server.start()

            async def all_there() -> bool:
                return await client.balances() == {"USDC": ("300", "0")}

            await eventually(all_there, timeout_s=120.0)
        assert not _said(said, "background_task_crashed")
        # Still compared, not only applied.
        stub = ledger_pb2_grpc.LedgerServiceStub(rig.public)

        async def matched() -> bool:
            report = await stub.GetReconciliation(ledger_pb2.GetReconciliationRequest())
            at = report.compared_log_seq == rig.engine.maker.seq
            return bool(at and report.state == ledger_pb2.RECONCILIATION_STATE_MATCHED)

        await eventually(matched, timeout_s=60.0)


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[Path]:
    """A file system with little room."""
    folder = short_dir / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MB}m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, check=False).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_waited_for(small_disk: Path, tmp_path: Path, valkey_url: str) -> None:
    maker, postgres = LogMaker(), EmbeddedPostgres(small_disk)
    # The owner of the database must be able to reach it.
    small_disk.chmod(0o755)
    records = trading(maker, 200)
    async with _on(postgres, valkey_url, tmp_path) as (settlement, settings):
        wire, ballast = Wire(settlement.redis), small_disk / "ballast"
        with structlog.testing.capture_logs() as said:
            async with settlement.following():
                await wire.append(*records[:10])
                await eventually(lambda: _applied(settlement, 5))
                _fill(ballast, leave=64 << 10)
                await wire.append(*records[10:])
                await eventually(lambda: _waits(said), timeout_s=90.0)
                ballast.unlink()
                if postgres.pid is None:
                    # A write-ahead log without room ends the server; its supervisor starts it.
                    await postgres.start()
                await settlement.caught_up(maker, timeout_s=120.0)
        await _all_is_well(settlement, settings, maker)


def _fill(path: Path, *, leave: int) -> None:
    """Take all the room there is but `leave` bytes."""
    with path.open("wb") as file:
        while (free := shutil.disk_usage(path.parent).free) > leave:
            file.write(bytes(min(1 << 20, free - leave)))
            file.flush()


async def test_services_killed_at_random_points_apply_everything_once(
    settings: Settings,
    settlement: Settlement,
    maker: LogMaker,
    wire: Wire,
    kills: int,
) -> None:
    """`--kills 100 --timeout 0` for the long run."""
    chance = random.Random(kills)
    settings = settings.model_copy(update={"settlement_port": free_ports([0, 100])})
    async with _writing(wire, endless_trading(maker)):
        for _ in range(kills):
            process = await settlement_process(settings)
            before = await settlement.applied_seq()

            async def moved(before: int = before) -> bool:
                return await settlement.applied_seq() > before

            try:
                await eventually(moved, timeout_s=60.0)
                await asyncio.sleep(chance.random() * 0.5)
            finally:
                process.kill()
                await process.wait()
    await settlement.settle(maker, timeout_s=120.0)
    await _all_is_well(settlement, settings, maker)


@contextlib.asynccontextmanager
async def _writing(wire: Wire, records: Iterator[LogRecord]) -> AsyncIterator[None]:
    """The log grows all the time inside the block."""
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await wire.append(next(records))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        stop.set()
        await task


async def _applied(settlement: Settlement, seq: int) -> bool:
    return await settlement.applied_seq() >= seq


def _waits(said: list[Any]) -> bool:
    return _said(said, "settlement_waits_for_database")


def _said(said: list[Any], event: str) -> bool:
    return any(line["event"] == event for line in said)
