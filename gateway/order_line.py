"""The orders of all HTTP requests on one stream to each engine.

A call of its own costs more than an order does. Here whatever waits goes out in one message, so the
more there is to do, the less each of it costs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
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
# What a caller must be allowed to.
SCOPE: Final = "trade"
# Commands without an answer.
_PENDING_MAX = 20_000
_LOST = "the engine was lost; the command may have been done"
_LATE = "it took too long; it may still have happened"
# What a command came to.
Outcome = order_pb2.TradeResult | Refused
Done = Callable[[Outcome], None]


class LineCall:
    """A call whose message has been checked, as it goes to an engine.

    An order gets a deadline, so that the engine does not place it when its sender has been told
    that it took too long.
    """

    __slots__ = ("_kind", "_message", "_token", "_traceparent", "seconds")

    def __init__(
        self, kind: str, message: Message, token: str, traceparent: str, seconds: float
    ) -> None:
        self._kind = kind
        self._message = message
        self._token = token
        self._traceparent = traceparent
        self.seconds = seconds

    def write(self, number: int, submitted: internal_pb2.SubmittedCommand) -> None:
        """Put it into a message; its time begins now."""
        submitted.access_token = self._token
        submitted.traceparent = self._traceparent
        command = submitted.command
        command.request_id = number
        _put(self._kind, self._message, command)
        if self._kind == "place":
            _limit(command.place, time.time_ns() + int(self.seconds * 1e9))


class OrderLine:
    """One stream to one engine, opened with the first command and again after it broke."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        self._next_id = 0
        # Messages that wait to be written; commands are put into the last.
        self._gathered: deque[internal_pb2.SubmitCommandsRequest] = deque()
        # Who waits for a command, and until when by the loop's clock.
        self._pending: dict[int, tuple[Done, float]] = {}
        # Goes off when the first of them may be late.
        self._watch: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._stream: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_full(self) -> bool:
        """It would refuse a command."""
        return len(self._pending) >= _PENDING_MAX

    def send(self, call: LineCall, done: Done) -> int:
        """Send the command of a call: its number. `done` is called once, later, with its result or
        why there is none: `DEADLINE_PASSED`, or why the stream has ended.

        Raises `Refused(OVERLOADED)`.
        """
        if self.is_full:
            raise Refused(Reason.OVERLOADED, "too many commands wait; try again")
        if not self._gathered or len(self._gathered[-1].commands) >= MESSAGE_MAX:
            self._gathered.append(internal_pb2.SubmitCommandsRequest())
        self._next_id += 1
        number = self._next_id
        call.write(number, self._gathered[-1].commands.add())
        # Asked for once: the question is a system call before Python 3.12.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        due = loop.time() + call.seconds
        self._pending[number] = done, due
        if self._watch is None or due < self._watch.when():
            self._watch_until(due)
        self._wake.set()
        if self._stream is None:
            # In no request's context: it outlives the one it began with.
            self._stream = loop.create_task(self._run(), name="order line", context=Context())
        return number

    async def submit(self, call: LineCall) -> Outcome:
        """Send a command and wait for what it comes to. Raises `Refused(OVERLOADED)`."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        number = self.send(call, partial(_settle, future))
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def _finish(self, number: int, outcome: Outcome) -> None:
        waiting = self._pending.pop(number, None)
        if waiting is not None:
            waiting[0](outcome)

    def _watch_until(self, due: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        # One timer for all: most are answered long before, and a timer each costs more than that.
        self._watch = asyncio.get_running_loop().call_at(due, self._give_up)

    def _give_up(self) -> None:
        """Wait no more for what is late."""
        self._watch, now = None, asyncio.get_running_loop().time()
        late = [number for number, (_, due) in self._pending.items() if due <= now]
        for number in late:
            self._finish(number, Refused(Reason.DEADLINE_PASSED, _LATE))
        if self._pending:
            self._watch_until(min(due for _, due in self._pending.values()))

    async def close(self) -> None:
        """End the stream."""
        await cancel_and_wait(self._stream)
        if self._watch is not None:
            self._watch.cancel()

    async def _run(self) -> None:
        failure, reached = Refused(Reason.UNAVAILABLE, _LOST), False
        try:
            async with cancelling(self._stub.SubmitCommands()) as call:
                await call.wait_for_connection()
                reached = True
                writer = asyncio.create_task(self._write(call))
                try:
                    async for response in call:
                        await self._pace.answered(len(self._gathered))
                        for result in response.results:
                            self._finish(result.request_id, result)
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
            self._gathered.clear()
            for number in tuple(self._pending):
                self._finish(number, failure)

    async def _write(self, call: Any) -> None:
        while True:
            while self._gathered:
                await self._pace.gather(len(self._gathered[0].commands))
                request = self._gathered.popleft()
                self._pace.sent()
                try:
                    await call.write(request)
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
        command = order_pb2.TradeCommand()
        _put(kind[0], message, command)
        shards = self._sharded.shards_of(command)
        return self._lines[shards[0]] if len(shards) == 1 else None

    def prepare(
        self, rpc_path: str, message: Message, *, token: str, traceparent: str, seconds: float
    ) -> LineCall:
        """What to send for a call that may take so long. Raises `Refused` for what breaks the rules
        of its message.
        """
        self._rules.check(message)
        return LineCall(_KINDS[rpc_path][0], message, token, traceparent, seconds)

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

        Raises `Refused`.
        """
        require(SCOPE)
        call = self.prepare(
            rpc_path, message, token=token, traceparent=traceparent, seconds=seconds
        )
        return answer_of(rpc_path, await line.submit(call))

    async def close(self) -> None:
        """End all streams."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))


def goes_by_line(rpc_path: str) -> bool:
    """Whether calls of a method go by line, where they are for one shard alone."""
    return rpc_path in _KINDS


def answer_of(rpc_path: str, outcome: Outcome) -> Message:
    """The answer of a method from what its command came to. Raises `Refused`."""
    if isinstance(outcome, Refused):
        raise outcome
    if outcome.HasField("error"):
        error = outcome.error
        raise Refused(Reason(error.reason), error.message, field=error.field, **dict(error.details))
    answer: Message = getattr(outcome, _KINDS[rpc_path][1])
    return answer


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    # Whoever waited may have gone a moment ago.
    if not future.done():
        future.set_result(outcome)


def _put(kind: str, message: Message, command: order_pb2.TradeCommand) -> None:
    getattr(command, kind).CopyFrom(message)


def _limit(order: order_pb2.PlaceOrderRequest, deadline_ns: int) -> None:
    """Give an order a deadline that is no later than this one."""
    if order.HasField("deadline") and order.deadline.ToNanoseconds() <= deadline_ns:
        return
    order.deadline.seconds, order.deadline.nanos = divmod(deadline_ns, 10**9)
