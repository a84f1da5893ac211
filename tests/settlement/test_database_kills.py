"""PostgreSQL killed with -9: what it had not written to disk is applied again, and only that."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tidebook.settlement.v1 import internal_pb2 as settlement_internal_pb2
from tidebook.settlement.v1 import ledger_pb2

from mesh.config import Settings
from mesh.log import LogWriter
from mesh.redis import open_redis
from ops.embedded import EmbeddedPostgres
from ops.migrate import migrate
from ops.verify import make_report
from services.settlement.store.sessions import open_store
from tests.builders import make_settings
from tests.settlement.rig import Client, Rig, settlement_rig
from tests.settlement.support import (
    BTC,
    USDC,
    LogMaker,
    Settlement,
    Wire,
    endless_orders,
    endless_trading,
)
from tests.support import eventually
from tests.support.killing import kill_postgres

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")

_TRADERS = (11, 12, 13, 14)
_CLIENTS = (21, 22, 23)
_ENDS: set[int] = {
    ledger_pb2.TRANSFER_STATUS_COMPLETED,
    ledger_pb2.TRANSFER_STATUS_CANCELLED,
    ledger_pb2.TRANSFER_STATUS_FAILED,
}
_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
# How often to try to have a batch in the database that is not on its disk.
_TRIES = 8


@pytest_asyncio.fixture
async def postgres(short_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A durable server of the test's own."""
    server = EmbeddedPostgres(short_dir)
    await server.start()
    await migrate(server.url, ("settlement",))
    yield server
    await server.stop()


@pytest.fixture
def settings(tmp_path: Path, postgres: EmbeddedPostgres, valkey_url: str) -> Settings:
    return make_settings(
        tmp_path,
        postgres_url=postgres.url,
        redis_url=valkey_url,
        payout_delay_ms=50,
        reconcile_seconds=0.2,
    )


async def test_batches_that_the_database_lost_are_applied_again_from_the_archive(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    """The engine may trim what is archived and applied: the archive has it, whatever is lost."""
    maker, redis = LogMaker(), open_redis(settings)
    pool = await open_store(settings)
    settlement, wire = Settlement(pool, redis), Wire(redis)
    log = endless_trading(maker)
    # Nothing but commits that wait for the disk brings it there.
    await pool.execute("alter system set wal_writer_delay = '10s'")
    await pool.execute("alter system set wal_writer_flush_after = '1GB'")
    await pool.execute("select pg_reload_conf()")
    lost = 0
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        stack.callback(pool.terminate)
        for _ in range(_TRIES):
            async with settlement.following():
                records = list(itertools.islice(log, 20))
                await wire.append(*records)
                last = records[-1].seq
                await eventually(partial(_applied, settlement, last))
                await LogWriter(redis, 0).trim(last)
                await kill_postgres(postgres)
            await postgres.start()
            assert await settlement.count("archive") == last
            lost += last - await settlement.applied_seq()
            if lost:
                break
        assert lost, "no batch was lost, so this shows nothing"
        await settlement.settle(maker, timeout_s=120.0)
        await settlement.check_books(maker)
    assert (await make_report(settings)).differences == 0


async def test_databases_killed_at_random_points_lose_and_double_nothing(
    settings: Settings, postgres: EmbeddedPostgres, kills: int
) -> None:
    """Orders, deposits and withdrawals all the time; `--kills 100 --timeout 0` for the long run."""
    chance, redis = random.Random(kills), open_redis(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        rig = await stack.enter_async_context(settlement_rig(settings, redis))
        maker, wire = rig.engine.maker, rig.engine.wire
        funds = [maker.transfer(a, asset, 10**15) for a in _TRADERS for asset in (USDC, BTC)]
        await wire.append(maker.entry(*funds))
        stop, books = asyncio.Event(), [_Account(rig, account_id) for account_id in _CLIENTS]
        async with asyncio.TaskGroup() as load:
            load.create_task(_trade(rig, stop))
            for account in books:
                load.create_task(account.move_money(stop))
            for _ in range(kills):
                await eventually(partial(_has_applied, rig, maker.seq + 20), timeout_s=120.0)
                await asyncio.sleep(chance.random() * 0.5)
                await kill_postgres(postgres)
                await postgres.start()
            stop.set()
        for account in books:
            await eventually(account.check, timeout_s=120.0)
        pool = await open_store(settings)
        stack.callback(pool.terminate)
        settlement = Settlement(pool, redis)
        await settlement.caught_up(maker, timeout_s=120.0)
        await settlement.check_books(maker)
        assert await settlement.count("transfers") == sum(len(a.asked) for a in books)
        report = await make_report(settings)
        assert report.differences == 0, [check.differences for check in report.checks]


async def _trade(rig: Rig, stop: asyncio.Event) -> None:
    orders = endless_orders(rig.engine.maker)
    while not stop.is_set():
        await rig.engine.write(lambda: next(orders))
        await asyncio.sleep(0.02)


class _Account:
    """A client that brings money in, takes some out and calls some of that back, and repeats each
    request until it gets an answer.
    """

    def __init__(self, rig: Rig, account_id: int) -> None:
        # Request id -> (units that it moves, what it was said to be last).
        self.asked: dict[str, int] = {}
        self.said: dict[str, int] = {}
        self._client: Client = rig.client(account_id)

    async def move_money(self, stop: asyncio.Event) -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            self.asked[f"in-{number}"] = 3
            await self._ask(f"in-{number}")
            self.asked[f"out-{number}"] = -2
            transfer = await self._ask(f"out-{number}")
            if number % 2:
                await self._call_back(transfer)

    async def _ask(self, request_id: str) -> ledger_pb2.Transfer:
        units = self.asked[request_id]
        while True:
            try:
                if units > 0:
                    transfer = await self._client.deposit("USDC", str(units), request_id)
                else:
                    transfer = await self._client.withdraw("USDC", str(-units), request_id)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NO_ANSWER:
                    raise
                await asyncio.sleep(0.1)
            else:
                self._note(transfer)
                return transfer

    async def _call_back(self, transfer: ledger_pb2.Transfer) -> None:
        request = ledger_pb2.CancelWithdrawalRequest(transfer_id=transfer.transfer_id)
        method = self._client.ledger.CancelWithdrawal
        # No answer, or too late: it has been paid.
        with contextlib.suppress(grpc.aio.AioRpcError):
            self._note((await self._client.call(method, request)).transfer)

    def _note(self, transfer: ledger_pb2.Transfer) -> None:
        before = self.said.get(transfer.request_id)
        # What a client was told is the end is the end.
        assert before not in _ENDS or before == transfer.status
        self.said[transfer.request_id] = transfer.status

    async def check(self) -> None:
        """Everything asked for is there once and has come to its end, and makes up the balance."""
        transfers = await self._client.transfers()
        assert sorted(transfer.request_id for transfer in transfers) == sorted(self.asked)
        for transfer in transfers:
            assert transfer.status in _ENDS
            self._note(transfer)
        units = sum(
            self.asked[transfer.request_id]
            for transfer in transfers
            if transfer.status == ledger_pb2.TRANSFER_STATUS_COMPLETED
        )
        assert await self._client.balances() == {"USDC": (str(units), "0")}


async def _has_applied(rig: Rig, log_seq: int) -> bool:
    answer = await rig.internal.GetProgress(settlement_internal_pb2.GetProgressRequest())
    return bool(answer.applied_seq >= log_seq)


async def _applied(settlement: Settlement, log_seq: int) -> bool:
    return await settlement.applied_seq() >= log_seq
