"""The commands of many callers on one stream, each with a token, a trace and an answer of its own.

Nothing that one caller sends can end the stream or hold up the others: a refusal is the result of
its own command, and a message is answered when its commands are done, whatever came before it. One
message is one submission: an order costs its decoding, applying and answering, nothing more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from typing import Any

import structlog
from tidebook.engine.v1 import internal_pb2

from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.identity import Caller
from mesh.interceptors import to_refused
from mesh.telemetry import new_trace, parse_traceparent
from mesh.tokens import TokenVerifier
from services.engine import codec
from services.engine.domain import commands as c
from services.engine.read_ahead import ReadAhead, check_size
from services.engine.service import Engine
from services.engine.submission import CommandSpan, Item, Outcome, span_below

Request = internal_pb2.SubmitCommandsRequest
Response = internal_pb2.SubmitCommandsResponse
# Who sends a command, or why it is refused whatever it says.
Sender = Caller | Refused

log = structlog.get_logger()


class SharedStream:
    """One such stream."""

    def __init__(self, engine: Engine, verifier: TokenVerifier) -> None:
        self._engine = engine
        self._verifier = verifier
        self._answered: deque[Response] = deque()
        self._verifying: set[asyncio.Task[None]] = set()
        self._submitted: set[asyncio.Future[Any]] = set()
        self._ahead = ReadAhead()

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """What becomes of the requests, as it becomes known."""
        ahead = self._ahead
        reader = asyncio.create_task(ahead.read(requests, self._take))
        try:
            while True:
                while self._answered:
                    yield self._answered.popleft()
                if ahead.ended and not self._verifying and not self._submitted:
                    await reader
                    return
                await ahead.news()
        finally:
            await cancel_and_wait(reader, *self._verifying)
            # Nobody waits for them any more: what the writer has not taken is not done.
            for future in self._submitted:
                future.cancel()

    def _take(self, request: Request) -> int:
        size = len(request.commands)
        check_size(size)
        senders = [self._known(submitted.access_token) for submitted in request.commands]
        known = [sender for sender in senders if sender is not None]
        if len(known) == size:
            self._submit(request, known)
        else:
            task = asyncio.create_task(self._verify(request, senders))
            self._verifying.add(task)
            task.add_done_callback(self._verified)
        return size

    def _known(self, token: str) -> Sender | None:
        """The sender, if that can be said at once."""
        try:
            caller = self._verifier.verified(token)
        except Refused as refused:
            return refused
        return None if caller is None else _trading(caller)

    async def _verify(self, request: Request, senders: Sequence[Sender | None]) -> None:
        """Look closely at the tokens that are new, then submit the message."""
        verified: list[Sender] = []
        for submitted, sender in zip(request.commands, senders, strict=True):
            try:
                verified.append(
                    sender or _trading(await self._verifier.verify(submitted.access_token))
                )
            except Refused as refused:
                verified.append(refused)
        self._submit(request, verified)

    def _verified(self, task: asyncio.Task[None]) -> None:
        self._verifying.discard(task)
        self._ahead.tell()

    def _submit(self, request: Request, senders: Sequence[Sender]) -> None:
        """Queue the commands of a message; the response is written while they are done."""
        engine, response = self._engine, Response()
        request_ids: list[int] = []
        add, write = response.results.add, engine.encoder.write_result

        def answer(index: int, command: c.Command | None, outcome: Outcome) -> None:
            result = add()
            try:
                write(result, request_ids[index], command, outcome)
            except Exception as error:
                # Of the message's many senders it hurts one.
                log.error("answer_failed", span=spans[index].name, exc_info=error)
                result.Clear()
                result.request_id = request_ids[index]
                codec.write_error(result.error, to_refused(error))

        items: list[Item] = []
        spans: list[CommandSpan] = []
        try:
            texts = engine.texts
            for submitted, sender in zip(request.commands, senders, strict=True):
                command = submitted.command
                request_ids.append(command.request_id)
                items.append(
                    sender
                    if isinstance(sender, Refused)
                    else codec.trade_item(command, texts, sender.account_id)
                )
                trace = parse_traceparent(submitted.traceparent) or new_trace()
                spans.append(span_below(codec.span_name(command), trace))
            future = engine.submit_traced(items, spans, answer)
        except Refused as refused:
            self._answer(_refusals(request, senders, refused), len(senders))
            return
        self._submitted.add(future)
        future.add_done_callback(partial(self._done, request, senders, response))

    def _done(
        self,
        request: Request,
        senders: Sequence[Sender],
        response: Response,
        future: asyncio.Future[Any],
    ) -> None:
        if future.cancelled():
            return
        self._submitted.discard(future)
        error = future.exception()
        if error is not None:
            # The writer failed with it in hand; what was written of the results is no more.
            assert isinstance(error, Refused), "`answer` raises nothing"
            response = _refusals(request, senders, error)
        self._answer(response, len(senders))

    def _answer(self, response: Response, size: int) -> None:
        self._ahead.answered(size)
        self._answered.append(response)
        self._ahead.tell()


def _trading(caller: Caller) -> Sender:
    """The caller, if its token is good for trading."""
    if "trade" in caller.scopes:
        return caller
    return Refused(Reason.SCOPE_MISSING, "the token lacks the scope trade", scope="trade")


def _refusals(request: Request, senders: Sequence[Sender], refused: Refused) -> Response:
    """The response to a message that the engine does not take as a whole."""
    response = Response()
    for submitted, sender in zip(request.commands, senders, strict=True):
        result = response.results.add(request_id=submitted.command.request_id)
        codec.write_error(result.error, sender if isinstance(sender, Refused) else refused)
    return response
