"""Reading settlement's archive of the log: every entry ever written, also those that the log store
has forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
import structlog
from tidebook.settlement.v1 import internal_pb2, internal_pb2_grpc

from mesh.aio import Backoff
from mesh.channel import cancelling
from mesh.log import LogRecord

log = structlog.get_logger()


class ArchiveReader:
    """The archive of one shard, asked of settlement."""

    def __init__(self, settlement: grpc.aio.Channel, shard: int) -> None:
        self._stub = internal_pb2_grpc.SettlementInternalServiceStub(settlement)
        self._shard = shard

    async def read(self, after_seq: int) -> AsyncGenerator[list[LogRecord], None]:
        """What is archived after a position, in order; whoever reads checks the chain.

        Waits for settlement while it cannot be reached.
        """
        backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        while True:
            request = internal_pb2.ReadArchiveRequest(shard=self._shard, after_seq=after_seq)
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
                log.warning("archive_awaited", after_seq=after_seq)
                await backoff.wait()
