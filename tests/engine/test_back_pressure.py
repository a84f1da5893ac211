"""The engine and settlement's archive: orders wait for it, the log is trimmed behind it, and an
engine that has lost its snapshots is rebuilt from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tidebook.engine.v1 import types_pb2 as t
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

from kernel.reasons import Reason
from mesh.log import LogReader, LogRecord, LogTrimmed, log_key
from mesh.redis import open_redis
from mesh.server import ServiceHost
from mesh.status import refused_from
from services.engine.snapshots import SnapshotStore
from tests.engine.test_orders import refusal
from tests.engine.test_recovery import read_log
from tests.support import eventually
from tests.support.engine import EngineRig, engine_rig


class Progress(internal_pb2_grpc.SettlementInternalServiceServicer):
    """A settlement that has archived as much as the test says."""

    def __init__(self) -> None:
        self.archived_seq = 0
        self.asked = 0
        self.records: list[LogRecord] = []

    async def GetProgress(
        self, request: internal_pb2.GetProgressRequest, context: Any
    ) -> internal_pb2.GetProgressResponse:
        self.asked += 1
        return internal_pb2.GetProgressResponse(
            archived_seq=self.archived_seq, applied_seq=self.archived_seq
        )

    async def ReadArchive(
        self, request: internal_pb2.ReadArchiveRequest, context: Any
    ) -> AsyncIterator[internal_pb2.ReadArchiveResponse]:
        for record in self.records[request.after_seq : self.archived_seq]:
            entry = internal_pb2.ArchivedEntry(
                seq=record.seq, payload=record.payload, hash=record.hash
            )
            yield internal_pb2.ReadArchiveResponse(entries=[entry])


async def start_settlement(rig: EngineRig, progress: Progress) -> ServiceHost:
    add = internal_pb2_grpc.add_SettlementInternalServiceServicer_to_server
    return await ServiceHost.start(rig.settings, service="settlement", internal=[(add, progress)])


@pytest_asyncio.fixture
async def limited(short_dir: Path, valkey_url: str) -> AsyncIterator[EngineRig]:
    """A running engine that lets ten entries be unarchived."""
    async with engine_rig(short_dir, valkey_url, log_unarchived_max=10) as rig:
        await rig.start()
        yield rig


async def test_orders_wait_for_the_archive_and_cancels_do_not(limited: EngineRig) -> None:
    alice = await limited.funded(1)
    first = (await alice.place()).order
    for _ in range(14):
        await alice.place()
    # Nothing was held back so far: nobody has said how far the archive is.
    progress = Progress()
    host = await start_settlement(limited, progress)
    try:

        async def held_back() -> bool:
            try:
                await alice.place()
            except grpc.RpcError as error:
                return refused_from(error).reason is Reason.OVERLOADED
            return False

        await eventually(held_back)
        cancelled = await alice.cancel(first.order_id)
        assert cancelled.status == t.ORDER_STATUS_CANCELLED
        progress.archived_seq = (await limited.state()).log_seq

        await eventually(lambda: alice.place(client_order_id="after"))
    finally:
        await host.drain()


async def test_an_archive_that_is_gone_holds_orders_back_after_the_limit(
    limited: EngineRig,
) -> None:
    alice = await limited.funded(1)
    progress = Progress()
    progress.archived_seq = (await limited.state()).log_seq
    host = await start_settlement(limited, progress)
    await eventually(lambda: progress.asked > 0)
    await host.drain()
    placed = 0
    while placed < 30:
        try:
            await alice.place()
        except grpc.RpcError:
            break
        placed += 1
    assert 10 <= placed <= 12
    assert (await refusal(alice.place())).reason is Reason.OVERLOADED


async def test_the_log_is_trimmed_behind_snapshot_and_archive_and_can_be_rebuilt(
    short_dir: Path, valkey_url: str
) -> None:
    async with engine_rig(short_dir, valkey_url, snapshot_every_entries=50, snapshot_keep=1) as rig:
        await rig.spawn()
        alice = await rig.funded(1)
        for number in range(150):
            await alice.place(client_order_id=f"order-{number}")
        store = SnapshotStore.of(rig.settings)
        await eventually(lambda: min(store.positions()) >= 50)
        redis = open_redis(rig.settings)
        reader = LogReader(redis, 0)
        progress = Progress()
        progress.records = await read_log(rig)
        progress.archived_seq = 120
        host = await start_settlement(rig, progress)
        try:
            await eventually(lambda: "log_trimmed" in rig.log_path.read_text())
            with pytest.raises(LogTrimmed):
                await reader.read(0, 1)
            kept = min(*store.positions(), progress.archived_seq)
            assert await reader.get(kept) is not None
            assert await redis.xlen(log_key(0)) >= len(progress.records) - kept + 1
            await rig.kill()
            for seq in store.positions():
                store.path(seq).unlink()
            progress.archived_seq = len(progress.records)
            await rig.spawn()
            assert "recovery_reads_the_archive" in rig.log_path.read_text()
            assert len(await alice.open_orders()) == 150
            again = await alice.place(client_order_id="order-7")
            assert again.repeated
            await eventually(store.positions)
        finally:
            await redis.aclose()
            await host.drain()
