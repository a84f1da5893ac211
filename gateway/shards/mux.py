"""Streams in both directions to several shards, as one: orders, and subscriptions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from tidebook.engine.v1 import order_pb2
from tidebook.marketdata.v1 import marketdata_pb2

from gateway.shards.calls import ComposedCall, Encode
from gateway.shards.merging import result_of_all
from gateway.shards.routing import ShardRouter
from gateway.ws.frames import error_of
from kernel.reasons import Reason, Refused
from mesh.channel import cancelling
from mesh.status import RETRYABLE, refused_from


@dataclass(slots=True)
class Batch:
    """Commands of one message: which shards each went to, and what those answered."""

    shards: list[tuple[int, ...]]
    results: dict[int, list[order_pb2.TradeResult]] = field(default_factory=dict)
    missing: int = 0

    def parts(self, commands: Any) -> dict[int, list[order_pb2.TradeCommand]]:
        """Shard -> its commands, in order."""
        found: dict[int, list[order_pb2.TradeCommand]] = {}
        for command, shards in zip(commands, self.shards, strict=True):
            for shard in shards:
                found.setdefault(shard, []).append(command)
        self.missing = len(found)
        return found

    def answered(self, shard: int, results: Any) -> None:
        """A shard's results, in the order of its commands."""
        self.results[shard] = list(results)
        self.missing -= 1

    def merged(self) -> list[order_pb2.TradeResult]:
        """One result per command, in the order of the commands."""
        by_shard = {shard: iter(results) for shard, results in self.results.items()}
        merged = []
        for shards in self.shards:
            found = {shard: next(by_shard[shard]) for shard in shards}
            merged.append(result_of_all(found) if len(found) > 1 else found[shards[0]])
        return merged


class Mux(ComposedCall):
    """A stream to each shard that is written to, opened with the first message for it."""

    def __init__(
        self, open_: Callable[[int, str], Any], decode: Callable[[Any], Any], encode: Encode
    ) -> None:
        self._open = open_
        # A newer access token than the one that the whole was opened with.
        self._token = ""
        self._decode = decode
        self._encode = encode
        self._calls: dict[int, Any] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._out: deque[Any] = deque()
        self._more = asyncio.Event()
        self._error: grpc.RpcError | None = None
        self._closed = self._cancelled = False

    async def read(self) -> Any:
        """The next message, `grpc.aio.EOF` at the end. Raises the error that ended a stream."""
        while True:
            if self._out:
                return self._encode(self._out.popleft())
            if self._error is not None:
                raise self._error
            if self._closed and not self._readers:
                return grpc.aio.EOF
            self._more.clear()
            await self._more.wait()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def done_writing(self) -> None:
        """No more messages will come; what is under way is still answered."""
        self._closed = True
        for call in tuple(self._calls.values()):
            await call.done_writing()
        self._more.set()

    def cancel(self) -> bool:
        """End all of them."""
        self._cancelled = True
        for reader in self._readers:
            reader.cancel()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    async def send(self, shard: int, message: Any) -> None:
        """Write to a shard's stream."""
        call = self._calls.get(shard)
        if call is None:
            call = self._calls[shard] = self._open(shard, self._token)
            reader = asyncio.create_task(self._read(shard, call))
            self._readers.add(reader)
            reader.add_done_callback(self._gone)
        try:
            await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            # Whoever reads it learns why it has ended.
            return

    def take(self, shard: int, message: Any) -> None:
        """A message of a shard's stream."""
        raise NotImplementedError

    def lost(self, shard: int, error: grpc.RpcError) -> bool:
        """A shard's stream broke; whether the others go on."""
        return False

    def put(self, message: Any) -> None:
        """A message for the reader."""
        self._out.append(message)
        self._more.set()

    def _gone(self, reader: asyncio.Task[None]) -> None:
        self._readers.discard(reader)
        self._more.set()

    async def _read(self, shard: int, call: Any) -> None:
        try:
            async with cancelling(call):
                async for message in call:
                    self.take(shard, message)
        except grpc.RpcError as error:
            del self._calls[shard]
            if not self.lost(shard, error):
                self._error = error


class TradeMux(Mux):
    """`TradeStream`: results in the order of the commands, whichever shards those went to.

    A shard that is lost refuses the commands it has not answered; the next one for it opens its
    stream again. The other shards trade on.
    """

    def __init__(
        self,
        router: ShardRouter,
        open_: Callable[[int, str], Any],
        decode: Callable[[Any], order_pb2.TradeStreamRequest],
        encode: Encode,
    ) -> None:
        super().__init__(open_, decode, encode)
        self._router = router
        self._first: order_pb2.TradeStreamRequest | None = None
        self._batches: deque[Batch] = deque()
        # Shard -> the batches it has yet to answer, and how many commands each has of.
        self._expected: dict[int, deque[tuple[Batch, list[int]]]] = {}

    async def write(self, data: Any) -> None:
        """Send a message on, to the shards that its commands are for."""
        request = self._decode(data)
        if self._first is None:
            self._first = request
        batch = Batch([self._router.of_command(command) for command in request.commands])
        parts = batch.parts(request.commands)
        if request.access_token:
            # For all shards, also those that the commands do not concern.
            self._token = request.access_token
            for shard in self._calls:
                parts.setdefault(shard, [])
            batch.missing = len(parts)
        self._batches.append(batch)
        for shard, commands in parts.items():
            ids = [command.request_id for command in commands]
            self._expected.setdefault(shard, deque()).append((batch, ids))
            # Of a stream of its own each shard is told by the first message what the stream is.
            fresh = shard not in self._calls
            message = order_pb2.TradeStreamRequest(
                commands=commands,
                traceparent=request.traceparent,
                access_token=request.access_token,
                cancel_on_disconnect=fresh and self._first.cancel_on_disconnect,
                brief_results=fresh and self._first.brief_results,
            )
            await self.send(shard, message)
        self._answer()

    def take(self, shard: int, message: order_pb2.TradeStreamResponse) -> None:
        batch, _ = self._expected[shard].popleft()
        batch.answered(shard, message.results)
        self._answer()

    def lost(self, shard: int, error: grpc.RpcError) -> bool:
        refused = refused_from(error)
        if refused.reason not in RETRYABLE:
            return False
        if refused.reason is Reason.UNAVAILABLE:
            text = "the engine was lost; the command may have been done"
            refused = Refused(Reason.UNAVAILABLE, text)
        for batch, ids in self._expected.pop(shard, ()):
            failed = [order_pb2.TradeResult(request_id=i, error=error_of(refused)) for i in ids]
            batch.answered(shard, failed)
        self._answer()
        return True

    def _answer(self) -> None:
        while self._batches and not self._batches[0].missing:
            results = self._batches.popleft().merged()
            self.put(order_pb2.TradeStreamResponse(results=results))


class SubscribeMux(Mux):
    """`Subscribe`: a change is acknowledged when every shard that it concerns has done so."""

    def __init__(
        self,
        router: ShardRouter,
        open_: Callable[[int, str], Any],
        decode: Callable[[Any], marketdata_pb2.SubscribeRequest],
        encode: Encode,
    ) -> None:
        super().__init__(open_, decode, encode)
        self._router = router
        self._missing: dict[int, int] = {}

    async def write(self, data: Any) -> None:
        """Send a change to the shards of its markets."""
        request = self._decode(data)
        kind = request.WhichOneof("subscription")
        parts: dict[int, Any] = {0: None}
        if kind is not None:
            method = "WatchTickers" if kind == "tickers" else ""
            parts = dict(self._router.parts(method, getattr(request, kind)))
        self._missing[request.request_id] = len(parts)
        for shard, part in parts.items():
            message = marketdata_pb2.SubscribeRequest()
            message.CopyFrom(request)
            if part is not None:
                getattr(message, str(kind)).CopyFrom(part)
            await self.send(shard, message)

    def take(self, shard: int, message: marketdata_pb2.SubscribeResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "acknowledged":
            missing = self._missing.get(message.acknowledged, 1) - 1
            self._missing[message.acknowledged] = missing
            if missing:
                return
            del self._missing[message.acknowledged]
        self.put(message)
