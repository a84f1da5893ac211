"""Streams of commands: many in flight, results in order, never more than a window unanswered.

A message costs much more than an order, so one message is one submission with one future: there is
nothing per order but decoding it, applying it and writing its result.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tidebook.engine.v1 import order_pb2

from kernel.reasons import Refused
from mesh.aio import cancel_and_wait
from mesh.telemetry import TraceContext, new_trace, parse_traceparent
from services.engine import codec
from services.engine.domain import commands as c
from services.engine.read_ahead import ReadAhead, check_size
from services.engine.service import Engine
from services.engine.submission import CommandSpan, Outcome, span_below

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
Write = Callable[[order_pb2.TradeResult, int, c.Command | None, Outcome], None]


@dataclass(frozen=True, slots=True)
class InFlight(Generic[ResponseT]):
    """A message under way: when `done`, `response` is complete. `size` counts its commands."""

    done: asyncio.Future[Any]
    size: int
    response: ResponseT


class Pipeline(Generic[RequestT, ResponseT]):
    """Takes requests as they come and gives out their responses in the same order.

    What `submit` raises ends the stream once everything before it is answered.
    """

    def __init__(self, submit: Callable[[RequestT], InFlight[ResponseT]]) -> None:
        self._submit = submit
        self._waiting: deque[InFlight[ResponseT]] = deque()
        self._ahead = ReadAhead()

    async def responses(self, requests: AsyncIterator[RequestT]) -> AsyncGenerator[ResponseT, None]:
        """The response to each request, until the requests end."""
        ahead = self._ahead
        reader = asyncio.create_task(ahead.read(requests, self._take))
        try:
            while True:
                while self._waiting:
                    # Left in its place while it is waited for, so that the end can cancel it.
                    first = self._waiting[0]
                    await first.done
                    self._waiting.popleft()
                    ahead.answered(first.size)
                    yield first.response
                if ahead.ended:
                    await reader
                    return
                await ahead.news()
        finally:
            await cancel_and_wait(reader)
            for waiting in self._waiting:
                waiting.done.cancel()

    def _take(self, request: RequestT) -> int:
        submitted = self._submit(request)
        self._waiting.append(submitted)
        self._ahead.tell()
        return submitted.size


class TradeSession:
    """What the first message of a stream chose, for all that follow."""

    def __init__(self, engine: Engine, account_id: int, trace: TraceContext | None) -> None:
        self._engine = engine
        self._account_id = account_id
        self._trace = trace
        self._first = True
        self._stream_id = 0
        self._write: Write = engine.encoder.write_result

    def submit(
        self, request: order_pb2.TradeStreamRequest
    ) -> InFlight[order_pb2.TradeStreamResponse]:
        """Queue the commands of one message."""
        if self._first:
            self._first = False
            if request.cancel_on_disconnect:
                self._stream_id = self._engine.new_stream_id()
            if request.brief_results:
                self._write = self._engine.encoder.write_brief
        commands = request.commands
        check_size(len(commands))
        response = order_pb2.TradeStreamResponse()
        request_ids = [command.request_id for command in commands]
        add, write = response.results.add, self._write

        def answer(index: int, command: c.Command | None, outcome: Outcome) -> None:
            write(add(), request_ids[index], command, outcome)

        engine = self._engine
        items = codec.trade_items(commands, engine.texts, self._account_id, self._stream_id)
        # A stream may live for weeks: each message is a trace of its own unless it or the stream
        # says which.
        trace = parse_traceparent(request.traceparent) or self._trace or new_trace()
        done = engine.submit_traced(items, _spans(commands, trace), answer)
        return InFlight(done, len(commands), response)

    def end(self) -> None:
        """The stream has ended, however that happened."""
        if self._stream_id:
            # An engine that is going down does this at its next start.
            with contextlib.suppress(Refused):
                self._engine.cancel_stream(self._account_id, self._stream_id)


async def trade(
    engine: Engine,
    account_id: int,
    requests: AsyncIterator[order_pb2.TradeStreamRequest],
    trace: TraceContext | None,
) -> AsyncGenerator[order_pb2.TradeStreamResponse, None]:
    """Serve one order stream; `trace` is the caller's, if it has one for the whole stream."""
    session = TradeSession(engine, account_id, trace)
    try:
        pipeline = Pipeline(session.submit)
        async with contextlib.aclosing(pipeline.responses(requests)) as responses:
            async for response in responses:
                yield response
    finally:
        session.end()


def _spans(commands: Any, trace: TraceContext) -> Sequence[CommandSpan]:
    """One for the message, or one for each command when any comes with a trace of its own."""
    traceparents = [command.traceparent for command in commands]
    if not any(traceparents):
        return [span_below("engine.trade_stream", trace)] * len(traceparents)
    return [
        span_below(codec.span_name(command), parse_traceparent(traceparent) or trace)
        for command, traceparent in zip(commands, traceparents, strict=True)
    ]
