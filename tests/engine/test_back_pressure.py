"""The engine beside a settlement that falls behind: new orders wait, cancels do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio
from tidebook.engine.v1 import types_pb2 as t
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

from kernel.reasons import Reason
from mesh.server import ServiceHost
from mesh.status import refused_from
from tests.engine.test_orders import refusal
from tests.support import eventually
from tests.support.engine import EngineRig, engine_rig


class Progress(internal_pb2_grpc.SettlementInternalServiceServicer):
    """A settlement that has archived as much as the test says."""

    def __init__(self) -> None:
        self.archived_seq = 0
        self.asked = 0

    async def GetProgress(
        self, request: internal_pb2.GetProgressRequest, context: Any
    ) -> internal_pb2.GetProgressResponse:
        self.asked += 1
        return internal_pb2.GetProgressResponse(archived_seq=self.archived_seq)

    async def ReadArchive(
        self, request: internal_pb2.ReadArchiveRequest, context: Any
    ) -> AsyncIterator[internal_pb2.ReadArchiveResponse]:
        raise NotImplementedError
        yield


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

        await eventually(held_back, timeout_s=20)
        cancelled = await alice.cancel(first.order_id)
        assert cancelled.status == t.ORDER_STATUS_CANCELLED
        progress.archived_seq = (await limited.state()).log_seq

        await eventually(lambda: alice.place(client_order_id="after"), timeout_s=20)
    finally:
        await host.drain()


async def test_an_archive_that_is_gone_holds_orders_back_after_the_limit(
    limited: EngineRig,
) -> None:
    alice = await limited.funded(1)
    progress = Progress()
    progress.archived_seq = (await limited.state()).log_seq
    host = await start_settlement(limited, progress)
    await eventually(lambda: progress.asked > 0, timeout_s=20)
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
