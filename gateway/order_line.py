"""The orders of all HTTP requests on one stream to each engine.

A call of its own costs more than an order does. Here whatever waits goes out in one message, so the
more there is to do, the less each of it costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, order_pb2

from gateway.pace import MESSAGE_MAX, Pace
from gateway.shards.channel import ShardedChannel
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.channel import cancelling
from mesh.identity import require
from mesh.status import refused_from
from mesh.validation import MessageRules

_SERVICE: Final = "/tidebook.engine.v1.OrderService/"
# Method -> its field in `TradeCommand`, its field in `TradeResult`.
_KINDS: Final = {
    f"{_SERVICE}PlaceOrder": ("place", "placed"),
    f"{_SERVICE}AmendOrder": ("amend", "amended"),
    f"{_SERVICE}CancelOrder": ("cancel", "cancelled"),
    f"{_SERVICE}CancelAllOrders": ("cancel_all", "all_cancelled"),
}
# Commands without an answer.
_PENDING_MAX = 20_000
_LOST = "the engine was lost; the command may have been done"
_LATE = "it took too long; it may still have happened"


class OrderLine:
    """One stream to one engine, opened with the first command and again after it broke."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        self._next_id = 0
        self._queue: list[internal_pb2.SubmittedCommand] = []
        self._pending: dict[int, asyncio.Future[order_pb2.TradeResult]] = {}
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._stream: asyncio.Task[None] | None = None

    async def submit(
        self, submitted: internal_pb2.SubmittedCommand, seconds: float
    ) -> order_pb2.TradeResult:
        """Send a command and wait for its result, at most so long.

        Raises `Refused`: `OVERLOADED`, `DEADLINE_PASSED`, or why the stream has ended.
        """
        if len(self._pending) >= _PENDING_MAX:
            raise Refused(Reason.OVERLOADED, "too many commands wait; try again")
        self._next_id += 1
        number = submitted.command.request_id = self._next_id
        loop = asyncio.get_running_loop()
        future = self._pending[number] = loop.create_future()
        self._queue.append(submitted)
        self._wake.set()
        if self._stream is None:
            # In no request's context: it outlives the one it began with.
            self._stream = loop.create_task(self._run(), name="order line", context=Context())
        # A fifth of what `asyncio.timeout` costs.
        late = loop.call_later(seconds, _is_late, future)
        try:
            result: order_pb2.TradeResult = await future
            return result
        finally:
            late.cancel()
            self._pending.pop(number, None)

    async def close(self) -> None:
        """End the stream."""
        await cancel_and_wait(self._stream)

    async def _run(self) -> None:
        failure, reached = Refused(Reason.UNAVAILABLE, _LOST), False
        try:
            async with cancelling(self._stub.SubmitCommands()) as call:
                await call.wait_for_connection()
                reached = True
                writer = asyncio.create_task(self._write(call))
                try:
                    async for response in call:
                        self._pace.answered()
                        for result in response.results:
                            future = self._pending.get(result.request_id)
                            if future is not None and not future.done():
                                future.set_result(result)
                finally:
                    await cancel_and_wait(writer)
        except grpc.RpcError as broken:
            failure = refused_from(broken)
            # An engine that is killed may end its stream as an unknown failure: nobody can say more
            # of a command than when it is lost.
            if failure.reason in (Reason.UNAVAILABLE, Reason.INTERNAL):
                # Before anybody was there to take it, nothing was sent.
                text = _LOST if reached else "the engine cannot be reached now; try again"
                failure = Refused(Reason.UNAVAILABLE, text)
        finally:
            # What comes next opens a new stream; it is not this one's to lose.
            self._stream = None
            self._pace = Pace()
            self._queue = []
            pending, self._pending = self._pending, {}
            for future in pending.values():
                if not future.done():
                    future.set_exception(failure)

    async def _write(self, call: Any) -> None:
        while True:
            while self._queue:
                await self._pace.gather(len(self._queue))
                commands, self._queue = self._queue[:MESSAGE_MAX], self._queue[MESSAGE_MAX:]
                self._pace.sent()
                try:
                    await call.write(internal_pb2.SubmitCommandsRequest(commands=commands))
                except (grpc.RpcError, asyncio.InvalidStateError):
                    # Whoever reads the call learns why it has ended.
                    return
            self._wake.clear()
            await self._wake.wait()


class OrderLines:
    """The methods that go by line, and the line of each shard."""

    def __init__(self, engine: grpc.aio.Channel) -> None:
        self._sharded = engine if isinstance(engine, ShardedChannel) else None
        channels: Mapping[int, grpc.aio.Channel]
        channels = engine.channels if isinstance(engine, ShardedChannel) else {0: engine}
        self._lines = {shard: OrderLine(channel) for shard, channel in channels.items()}
        self._rules = MessageRules()
        self._rules.warm(
            make()
            for make in (
                order_pb2.PlaceOrderRequest,
                order_pb2.AmendOrderRequest,
                order_pb2.CancelOrderRequest,
                order_pb2.CancelAllOrdersRequest,
            )
        )

    def line_for(self, rpc_path: str, message: Message) -> OrderLine | None:
        """The line for a call; None when it goes its own way: another method, or not for exactly
        one shard.
        """
        kind = _KINDS.get(rpc_path)
        if kind is None:
            return None
        if self._sharded is None:
            return self._lines[0]
        shards = self._sharded.shards_of(_command(kind[0], message))
        return self._lines[shards[0]] if len(shards) == 1 else None

    async def call(
        self,
        line: OrderLine,
        rpc_path: str,
        message: Message,
        *,
        token: str,
        traceparent: str,
        seconds: float,
    ) -> Message:
        """The answer to a call of the current caller, who needs the scope to trade.

        An order that is late gets a deadline, so that the engine does not place it when its sender
        has been told that it took too long. Raises `Refused`.
        """
        require("trade")
        self._rules.check(message)
        kind, answered = _KINDS[rpc_path]
        command = _command(kind, message)
        if kind == "place":
            _limit(command.place, time.time_ns() + int(seconds * 1e9))
        submitted = internal_pb2.SubmittedCommand(
            access_token=token, traceparent=traceparent, command=command
        )
        result = await line.submit(submitted, seconds)
        if result.HasField("error"):
            error = result.error
            raise Refused(
                Reason(error.reason), error.message, field=error.field, **dict(error.details)
            )
        answer: Message = getattr(result, answered)
        return answer

    async def close(self) -> None:
        """End all streams."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))


def _is_late(future: asyncio.Future[order_pb2.TradeResult]) -> None:
    if not future.done():
        future.set_exception(Refused(Reason.DEADLINE_PASSED, _LATE))


def _command(kind: str, message: Message) -> order_pb2.TradeCommand:
    command = order_pb2.TradeCommand()
    getattr(command, kind).CopyFrom(message)
    return command


def _limit(order: order_pb2.PlaceOrderRequest, deadline_ns: int) -> None:
    """Give an order a deadline that is no later than this one."""
    if order.HasField("deadline") and order.deadline.ToNanoseconds() <= deadline_ns:
        return
    order.deadline.seconds, order.deadline.nanos = divmod(deadline_ns, 10**9)
