"""SettlementInternalService: how far settlement is, and the archive, for the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import grpc
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

from kernel.money import INT64_MAX
from services.settlement.halts import Halts
from services.settlement.store.applying import read_progress
from services.settlement.store.archive import archive_end, read_archive
from services.settlement.store.sessions import for_a_call

Context = grpc.aio.ServicerContext[Any, Any]
# A message must stay well below the largest that gRPC takes, and an entry can be large.
_MESSAGE_BYTES = 1 << 20
_READ_ENTRIES = 64


class InternalServicer(internal_pb2_grpc.SettlementInternalServiceServicer):
    """For other services of the mesh; the listener lets nobody else in."""

    def __init__(self, pool: asyncpg.Pool, halts: Mapping[int, Halts]) -> None:
        self._pool = pool
        self._halts = halts

    async def GetProgress(
        self, request: internal_pb2.GetProgressRequest, context: Context
    ) -> internal_pb2.GetProgressResponse:
        async with for_a_call(self._pool) as connection:
            archived_seq = (await archive_end(connection, request.shard)).seq
            progress = await read_progress(connection, request.shard)
        return internal_pb2.GetProgressResponse(
            archived_seq=archived_seq,
            applied_seq=progress.seq,
            applied_hash=progress.hash,
            halted=halts.summary() if (halts := self._halts.get(request.shard)) else "",
        )

    async def ReadArchive(
        self, request: internal_pb2.ReadArchiveRequest, context: Context
    ) -> AsyncIterator[internal_pb2.ReadArchiveResponse]:
        after_seq = min(request.after_seq, INT64_MAX)
        while True:
            # A connection for each piece: a slow reader must not keep one from the others.
            async with for_a_call(self._pool) as connection:
                records = await read_archive(connection, request.shard, after_seq, _READ_ENTRIES)
            if not records:
                return
            response, size = internal_pb2.ReadArchiveResponse(), 0
            for record in records:
                if size and size + len(record.payload) > _MESSAGE_BYTES:
                    yield response
                    response, size = internal_pb2.ReadArchiveResponse(), 0
                response.entries.add(seq=record.seq, payload=record.payload, hash=record.hash)
                size += len(record.payload)
            yield response
            after_seq = records[-1].seq
