"""What the engine knows of settlement's archive: how much of the log only the log store has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import structlog
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

_POLL_SECONDS = 1.0

log = structlog.get_logger()


class Archive:
    """Asks settlement how far its archive of one shard is."""

    def __init__(self, settlement: grpc.aio.Channel, shard: int) -> None:
        self._stub = internal_pb2_grpc.SettlementInternalServiceStub(settlement)
        self._request = internal_pb2.GetProgressRequest(shard=shard)

    async def watch(self, note: Callable[[int], None]) -> None:
        """Tell `note` the newest archived position about once a second, for ever.

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
                note(answer.archived_seq)
            await asyncio.sleep(_POLL_SECONDS)
