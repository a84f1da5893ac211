"""The commands of many callers on one stream, each with a token, a trace and an answer of its own.

Nothing that one caller sends can end the stream or hold up the others: a refusal is the result of
its own command, and a message is answered when its commands are done, whatever came before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from tidebook.engine.v1 import internal_pb2, order_pb2

from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.telemetry import new_trace, parse_traceparent
from mesh.tokens import TokenVerifier
from services.engine import codec
from services.engine.read_ahead import ReadAhead, check_size
from services.engine.service import Engine
from services.engine.submitting import submit_command

Request = internal_pb2.SubmitCommandsRequest
Response = internal_pb2.SubmitCommandsResponse


class SharedStream:
    """One such stream."""

    def __init__(self, engine: Engine, verifier: TokenVerifier) -> None:
        self._engine = engine
        self._verifier = verifier
        self._answered: deque[Response] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ahead = ReadAhead()

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """What becomes of the requests, as it becomes known."""
        ahead = self._ahead
        reader = asyncio.create_task(ahead.read(requests, self._take))
        try:
            while True:
                while self._answered:
                    yield self._answered.popleft()
                if ahead.ended and not self._tasks:
                    await reader
                    return
                await ahead.news()
        finally:
            await cancel_and_wait(reader, *self._tasks)

    def _take(self, request: Request) -> int:
        size = len(request.commands)
        check_size(size)
        task = asyncio.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return size

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ahead.tell()

    async def _answer(self, request: Request) -> None:
        response = Response()
        futures: list[asyncio.Future[Any]] = []
        try:
            for submitted in request.commands:
                futures.append(await self._submit(submitted, response.results.add()))
            for future, result in zip(futures, response.results, strict=True):
                try:
                    await future
                except Refused as refused:
                    # The writer failed with it in hand; what was written of its result is no more.
                    request_id = result.request_id
                    result.Clear()
                    result.request_id = request_id
                    codec.write_error(result.error, refused)
        finally:
            # Nobody waits for them any more: what the writer has not taken is not done.
            for future in futures:
                future.cancel()
            self._ahead.answered(len(request.commands))
        self._answered.append(response)

    async def _submit(
        self, submitted: internal_pb2.SubmittedCommand, result: order_pb2.TradeResult
    ) -> asyncio.Future[Any]:
        """Queue one command; its result is written when the future is done."""
        request = submitted.command
        result.request_id = request.request_id
        try:
            caller = await self._verifier.verify(submitted.access_token)
            if "trade" not in caller.scopes:
                raise Refused(
                    Reason.SCOPE_MISSING, "the token lacks the scope trade", scope="trade"
                )
            trace = parse_traceparent(submitted.traceparent) or new_trace()
            return submit_command(self._engine, request, result, caller.account_id, trace)
        except Refused as refused:
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(refused)
            # Should nobody ask, because the stream has ended, there is nothing to complain of.
            failed.exception()
            return failed
