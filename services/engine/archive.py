"""Settlement's archive as the engine uses it: how much of the log is in there, and reading it back
when the log store has forgotten it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import structlog
from tidebook.settlement.v1 import internal_pb2

from mesh.archive import ArchiveReader

_POLL_SECONDS = 1.0

log = structlog.get_logger()


class Archive(ArchiveReader):
    """Asks settlement how far its archive of one shard is, and reads it."""

    def __init__(self, settlement: grpc.aio.Channel, shard: int) -> None:
        super().__init__(settlement, shard)
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
