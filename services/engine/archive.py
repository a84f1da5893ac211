"""Settlement's archive as the engine uses it: how much of the log is in there, and reading it back
when the log store has forgotten it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import grpc
import structlog
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

from mesh.aio import Backoff
from mesh.channel import cancelling
from mesh.log import LogRecord

_POLL_SECONDS = 1.0

log = structlog.get_logger()


class Archive:
    """Asks settlement how far its archive of one shard is."""

    def __init__(self, settlement: grpc.aio.Channel, shard: int) -> None:
        self._stub = internal_pb2_grpc.SettlementInternalServiceStub(settlement)
        self._request = internal_pb2.GetProgressRequest(shard=shard)

    async def watch(self, note: Callable[[int, int], Awaitable[None]]) -> None:
        """Tell `note` the newest archived position, and the newest that settlement has done with
        altogether, about once a second, for ever.

        While settlement cannot be asked its last answer stands, and the log grows past it.
        """
        reached = True
        while True:
            try:
                answer = await self._stub.GetProgress(self._request)
            except grpc.RpcError as error:
                if reached:
                    log.warning("archive_not_reached", error=str(error.code()))
                reached = False
            else:
                reached = True
                await note(answer.archived_seq, min(answer.archived_seq, answer.applied_seq))
            await asyncio.sleep(_POLL_SECONDS)

    async def read(self, after_seq: int) -> AsyncGenerator[list[LogRecord], None]:
        """What is archived after a position, in order; whoever reads checks the chain.

        Waits for settlement while it cannot be reached.
        """
        backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        while True:
            request = internal_pb2.ReadArchiveRequest(
                shard=self._request.shard, after_seq=after_seq
            )
            try:
                async with cancelling(self._stub.ReadArchive(request)) as call:
                    async for response in call:
                        records = [LogRecord(e.seq, e.payload, e.hash) for e in response.entries]
                        after_seq = records[-1].seq
                        yield records
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                log.warning("recovery_waits_for_the_archive", after_seq=after_seq)
                await backoff.wait()
