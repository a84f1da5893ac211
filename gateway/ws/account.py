"""The private account channel of one WebSocket: one `WatchAccount` stream with its own token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import grpc
import structlog
from tidebook.engine.v1 import order_pb2, order_pb2_grpc

from gateway.upstream import Metadata
from gateway.ws.frames import Frame, data_frame
from kernel.reasons import Reason, Refused
from mesh.aio import Backoff, cancel_and_wait
from mesh.channel import cancelling
from mesh.status import RETRYABLE, refused_from

log = structlog.get_logger()


class AccountFeed:
    """Sends an account's changes to `send`, which may wait: the engine then holds them back.

    A lost engine is connected again and asked for what came since; other refusals go to `failed`.
    """

    def __init__(
        self,
        stub: order_pb2_grpc.OrderServiceAsyncStub,
        metadata: Callable[[], Metadata],
        send: Callable[[Frame], Awaitable[None]],
        failed: Callable[[Refused], None],
        *,
        resume_from: Sequence[int],
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._send = send
        self._failed = failed
        # Of shard 0, 1 and so on.
        self._seqs = list(resume_from)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream."""
        await cancel_and_wait(self._task)

    def _note(self, update: order_pb2.WatchAccountResponse) -> None:
        self._seqs += [0] * (update.shard + 1 - len(self._seqs))
        self._seqs[update.shard] = update.seq

    async def _run(self) -> None:
        backoff = Backoff(first_seconds=0.2, most_seconds=5.0)
        while True:
            request = order_pb2.WatchAccountRequest(
                resume_from_seq=self._seqs[0], resume_from_shards=self._seqs[1:]
            )
            metadata = self._metadata()
            try:
                call = self._stub.WatchAccount(request, metadata=metadata)
                async with cancelling(call):
                    async for update in call:
                        backoff.reset()
                        await self._send(data_frame("account", update))
                        self._note(update)
            except grpc.RpcError as error:
                refused = refused_from(error)
                if refused.reason is Reason.SEQUENCE_TOO_OLD:
                    self._seqs = [0]
                elif refused.reason is Reason.TOKEN_EXPIRED and metadata != self._metadata():
                    # The client has sent a newer token since.
                    continue
                elif refused.reason not in RETRYABLE:
                    self._failed(refused)
                    return
            await backoff.wait()
