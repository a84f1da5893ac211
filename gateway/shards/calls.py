"""Calls to several shards that look like one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from tidebook.engine.v1 import order_pb2

from gateway.shards.routing import order_of_search
from kernel.reasons import Reason
from mesh.aio import Backoff
from mesh.channel import cancelling
from mesh.status import RETRYABLE, refused_from

_WAITING_MAX = 16
Encode = Callable[[Message], Any]


class ComposedCall:
    """What all of them have of a call that has not failed: no metadata, and status OK."""

    async def initial_metadata(self) -> tuple[()]:
        return ()

    async def trailing_metadata(self) -> tuple[()]:
        return ()

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""


class ComposedUnary(ComposedCall):
    """Awaits one answer that `work` puts together."""

    def __init__(self, work: Coroutine[Any, Any, Message], encode: Encode) -> None:
        self._task = asyncio.create_task(work)
        self._encode = encode

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        return self._encode(await self._task)

    def cancel(self) -> bool:
        """End what is under way; harmless when it is done."""
        return self._task.cancel()

    def cancelled(self) -> bool:
        return self._task.cancelled()


async def gather(calls: Mapping[int, Any]) -> dict[int, Any]:
    """The answer of each shard; raises what the first to fail raised."""
    try:
        answers = await asyncio.gather(*calls.values())
    finally:
        for call in calls.values():
            call.cancel()
    return dict(zip(calls, answers, strict=True))


async def search(shards: tuple[int, ...], ask: Callable[[int], Any]) -> Message:
    """Ask one shard after the other until one does what it is asked."""
    errors: dict[int, grpc.RpcError] = {}
    for shard in shards:
        try:
            async with cancelling(ask(shard)) as call:
                answer: Message = await call
                return answer
        except grpc.RpcError as error:
            errors[shard] = error
    raise errors[order_of_search({s: refused_from(e).reason for s, e in errors.items()})]


class MergedStream(ComposedCall):
    """The messages of several streams, as they come.

    The streams of an account go on at their own positions when a shard is away for a while: the
    others must not end for it. With all other streams the first error ends everything.
    """

    def __init__(
        self,
        requests: Mapping[int, Message],
        open_: Callable[[int, Message], Any],
        encode: Encode,
    ) -> None:
        self._open = open_
        self._encode = encode
        self._queue: asyncio.Queue[Any] = asyncio.Queue(_WAITING_MAX)
        self._running = len(requests)
        self._cancelled = False
        self._tasks = [
            asyncio.create_task(self._copy(shard, request)) for shard, request in requests.items()
        ]

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` at the end of all. Raises the error of any of them."""
        while self._running:
            item = await self._queue.get()
            if isinstance(item, grpc.RpcError):
                self.cancel()
                raise item
            if item is not grpc.aio.EOF:
                return self._encode(item)
            self._running -= 1
        return grpc.aio.EOF

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def cancel(self) -> bool:
        """End all of them."""
        self._cancelled = True
        for task in self._tasks:
            task.cancel()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    async def _copy(self, shard: int, request: Message) -> None:
        account = isinstance(request, order_pb2.WatchAccountRequest)
        backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        while True:
            end: Any = grpc.aio.EOF
            try:
                async with cancelling(self._open(shard, request)) as call:
                    async for message in call:
                        backoff.reset()
                        if account:
                            message.shard = shard
                            request = order_pb2.WatchAccountRequest(resume_from_seq=message.seq)
                        await self._queue.put(message)
            except grpc.RpcError as error:
                end = error
            if not account or not _may_return(end):
                await self._queue.put(end)
                return
            if _too_old(end):
                request = order_pb2.WatchAccountRequest()
            await backoff.wait()


def _may_return(end: Any) -> bool:
    if not isinstance(end, grpc.RpcError):
        return False
    return refused_from(end).reason in RETRYABLE or _too_old(end)


def _too_old(end: Any) -> bool:
    return refused_from(end).reason is Reason.SEQUENCE_TOO_OLD
