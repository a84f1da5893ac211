"""The orders of one WebSocket: one `TradeStream` to the engine, opened with the first of them.

Results come back in the order of the commands. When the stream breaks, every command that has no
result is answered with the error, and the next command opens a new stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from tidebook.common.v1 import error_pb2
from tidebook.engine.v1 import order_pb2, order_pb2_grpc
from tidebook.gateway.v1 import gateway_pb2

from gateway.pace import MESSAGE_MAX, Pace
from gateway.upstream import Metadata
from gateway.ws.frames import error_of
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.channel import cancelling
from mesh.status import refused_from
from mesh.telemetry import SpanRecorder, TraceContext, format_traceparent, new_trace

# More unanswered commands than this on one connection are refused.
PENDING_MAX = 2000


@dataclass(slots=True)
class _Pending:
    frame_id: int
    kind: str
    trace: TraceContext
    start_ns: int


class TradeSession:
    """Commands of one connection and account. `answer` takes each finished frame."""

    def __init__(
        self,
        stub: order_pb2_grpc.OrderServiceAsyncStub,
        metadata: Callable[[], Metadata],
        recorder: SpanRecorder,
        answer: Callable[[gateway_pb2.ServerFrame], None],
    ) -> None:
        self.cancel_on_disconnect = False
        self._stub = stub
        self._metadata = metadata
        self._recorder = recorder
        self._answer = answer
        self._next_id = 0
        self._pending: dict[int, _Pending] = {}
        self._queue: list[order_pb2.TradeCommand] = []
        self._newer_token = ""
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._stream: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a stream, whose settings cannot be changed any more."""
        return self._stream is not None

    def submit(self, frame: gateway_pb2.ClientFrame) -> None:
        """Send a place, amend or cancel; the answer comes later. Raises `Refused(OVERLOADED)`."""
        if len(self._pending) >= PENDING_MAX:
            raise Refused(
                Reason.OVERLOADED, f"{PENDING_MAX} commands of this connection are unanswered"
            )
        kind = frame.WhichOneof("op") or ""
        self._next_id += 1
        pending = _Pending(frame.id, kind, new_trace(), time.time_ns())
        self._pending[self._next_id] = pending
        command = order_pb2.TradeCommand(
            request_id=self._next_id, traceparent=format_traceparent(pending.trace)
        )
        getattr(command, kind).CopyFrom(getattr(frame, kind))
        self._queue.append(command)
        self._wake.set()
        if self._stream is None:
            self._stream = asyncio.create_task(self._run())

    def renew(self, access_token: str) -> None:
        """Let an open stream go on with a newer token of the same account."""
        if self._stream is not None:
            self._newer_token = access_token
            self._wake.set()

    async def close(self) -> None:
        """End the stream; with `cancel_on_disconnect` the engine then cancels its orders."""
        await cancel_and_wait(self._stream)

    async def _run(self) -> None:
        error: grpc.RpcError | None = None
        try:
            async with cancelling(self._stub.TradeStream(metadata=self._metadata())) as call:
                writer = asyncio.create_task(self._write(call))
                try:
                    async for response in call:
                        await self._pace.answered(len(self._queue))
                        for result in response.results:
                            self._finish(result)
                finally:
                    await cancel_and_wait(writer)
        except grpc.RpcError as broken:
            error = broken
        self._stream = None
        refused = Refused(Reason.UNAVAILABLE) if error is None else refused_from(error)
        if refused.reason is Reason.UNAVAILABLE:
            refused.message = "the engine was lost; the command may have been done"
        self._fail_pending(refused)

    async def _write(self, call: Any) -> None:
        self._pace = Pace()
        first = True
        while True:
            while self._queue or self._newer_token:
                await self._pace.gather(len(self._queue))
                commands, self._queue = self._queue[:MESSAGE_MAX], self._queue[MESSAGE_MAX:]
                request = order_pb2.TradeStreamRequest(
                    commands=commands,
                    access_token=self._newer_token,
                    cancel_on_disconnect=first and self.cancel_on_disconnect,
                )
                first, self._newer_token = False, ""
                self._pace.sent()
                try:
                    await call.write(request)
                except (grpc.RpcError, asyncio.InvalidStateError):
                    # Whoever reads the call learns why it has ended.
                    return
            self._wake.clear()
            await self._wake.wait()

    def _finish(self, result: order_pb2.TradeResult) -> None:
        pending = self._pending.pop(result.request_id, None)
        if pending is None:
            return
        frame = gateway_pb2.ServerFrame(id=pending.frame_id)
        kind = result.WhichOneof("result")
        if kind in ("placed", "amended", "cancelled", "error"):
            getattr(frame, kind).CopyFrom(getattr(result, kind))
        else:
            frame.error.CopyFrom(error_of(Refused(Reason.INTERNAL)))
        self._send(pending, frame)

    def _fail_pending(self, refused: Refused) -> None:
        self._queue, self._newer_token = [], ""
        unanswered, self._pending = self._pending, {}
        error: error_pb2.Error = error_of(refused)
        for pending in unanswered.values():
            self._send(pending, gateway_pb2.ServerFrame(id=pending.frame_id, error=error))

    def _send(self, pending: _Pending, frame: gateway_pb2.ServerFrame) -> None:
        self._answer(frame)
        self._recorder.record(
            f"gateway WS {pending.kind}",
            pending.trace,
            None,
            pending.start_ns,
            time.time_ns(),
            outcome=frame.WhichOneof("payload"),
        )
