"""The streams a server has open, and how they are ended: when it drains, or their token ends.

A stream of requests is ended as if the client had closed its side, so that what is in flight is
still answered; a stream of responses is cancelled. Both then end with the reason: `DRAINING`, and
the client goes on elsewhere, or `TOKEN_EXPIRED` and `SESSION_REVOKED`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from kernel.reasons import Reason, Refused
from mesh.identity import ANONYMOUS, Caller
from mesh.tokens import TokenVerifier, check_address, session_ended, token_expired

# The gateway knows when a client's token expires and what to tell it: it goes first.
_AFTER_EXPIRY_SECONDS = 0.5


class OpenStream:
    """One stream under way: the task that serves it, and the task that waits for a request.

    `ending` is why it is asked to end, None while it is not.
    """

    __slots__ = (
        "_address",
        "_caller",
        "_expiry",
        "_max_message_bytes",
        "_reader",
        "_task",
        "_verifier",
        "ending",
        "takes_requests",
        "writing",
    )

    def __init__(
        self, task: asyncio.Task[Any], *, takes_requests: bool, max_message_bytes: int
    ) -> None:
        self.takes_requests = takes_requests
        self.ending: Refused | None = None
        self.writing = False
        self._task = task
        self._max_message_bytes = max_message_bytes
        self._reader: asyncio.Task[Any] | None = None
        self._address: str | None = None
        self._caller = ANONYMOUS
        self._verifier: TokenVerifier | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def session_id(self) -> str:
        """The session of the user it is served for; empty without one."""
        return self._caller.session_id

    def guard(self, caller: Caller, verifier: TokenVerifier, address: str | None) -> None:
        """End it when the caller's token does; `address` is the client's (see `check_address`)."""
        self._caller, self._verifier, self._address = caller, verifier, address
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(
            verifier.seconds_left(caller) + _AFTER_EXPIRY_SECONDS, self.end, token_expired()
        )

    async def renew(self, access_token: str) -> None:
        """Go on until a newer token of the same account ends.

        Raises `Refused`: what is wrong with the token, `IP_NOT_ALLOWED`, `TOKEN_INVALID` when it is
        of another account, `SCOPE_MISSING` when it may do less than the one before.
        """
        if self._verifier is None:
            return
        caller = await self._verifier.verify(access_token)
        check_address(caller, self._address)
        if caller.account_id != self._caller.account_id:
            raise Refused(Reason.TOKEN_INVALID, "the token is of another account")
        if not caller.scopes >= self._caller.scopes:
            raise Refused(Reason.SCOPE_MISSING, "the token may do less than the stream's")
        self.guard(caller, self._verifier, self._address)

    def closed(self) -> None:
        """It has ended."""
        if self._expiry is not None:
            self._expiry.cancel()

    async def read(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """The next request, or `grpc.aio.EOF` when the client or `end` ended the requests."""
        if self.ending is not None:
            return grpc.aio.EOF
        self._reader = asyncio.current_task()
        try:
            return await read()
        except asyncio.CancelledError:
            if self.ending is not None and take_back_cancel(self._reader):
                return grpc.aio.EOF
            raise
        finally:
            self._reader = None

    async def write(self, write: Callable[[Any], Awaitable[None]], message: Any) -> None:
        """Send a response; raises the reason when a watch was asked to end meanwhile.

        Raises `CancelledError` when the client has left, `ValueError` for a response that is too
        large to be sent.
        """
        self.writing = True
        try:
            await write(message)
        except grpc.aio.InternalError as error:
            # All that gRPC says is that it failed, and it cancels the task only later if at all.
            size = len(message) if isinstance(message, bytes) else message.ByteSize()
            if size > self._max_message_bytes:
                raise ValueError(f"a response of {size} bytes is too large") from error
            raise asyncio.CancelledError from error
        # Stays true when the write was cancelled: gRPC then cannot send a status any more.
        self.writing = False
        if self.ending is not None and not self.takes_requests:
            raise self.ending

    def end(self, why: Refused) -> None:
        """Ask the stream to end: no more requests, or, without requests, a cancellation."""
        if self.ending is not None:
            return
        self.ending = why
        if not self.takes_requests:
            if not self.writing:
                self._task.cancel()
        elif self._reader is not None:
            self._reader.cancel()

    def cancel(self) -> None:
        """End the stream now."""
        self.ending = self.ending or Refused(Reason.DRAINING)
        self._task.cancel()


_current: ContextVar[OpenStream | None] = ContextVar("tidebook_stream", default=None)


async def renew_stream(access_token: str) -> None:
    """Let the stream being served go on with a newer token (see `OpenStream.renew`)."""
    stream = _current.get()
    if stream is not None:
        await stream.renew(access_token)


class OpenStreams:
    """All streams of a service, over all its listeners."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._streams: set[OpenStream] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, *, takes_requests: bool) -> OpenStream:
        """Register the stream that the current task serves; `Refused(DRAINING)` when draining."""
        if self._draining:
            raise Refused(Reason.DRAINING)
        task = asyncio.current_task()
        assert task is not None, "streams are served in tasks"
        stream = OpenStream(
            task, takes_requests=takes_requests, max_message_bytes=self._max_message_bytes
        )
        _current.set(stream)
        self._streams.add(stream)
        self._none_open.clear()
        return stream

    def close(self, stream: OpenStream) -> None:
        """The stream has ended."""
        stream.closed()
        self._streams.discard(stream)
        if not self._streams:
            self._none_open.set()

    def end_sessions(self, session_ids: frozenset[str]) -> None:
        """End the streams of sessions that have ended."""
        for stream in tuple(self._streams):
            if stream.session_id in session_ids:
                stream.end(session_ended())

    async def drain(self, seconds: float) -> None:
        """End all streams; those that go on for longer than `seconds` are cancelled."""
        self._draining = True
        for stream in tuple(self._streams):
            stream.end(Refused(Reason.DRAINING))
        try:
            async with asyncio.timeout(seconds):
                await self._none_open.wait()
        except TimeoutError:
            for stream in tuple(self._streams):
                stream.cancel()


def take_back_cancel(task: asyncio.Task[Any] | None) -> bool:
    """Undo one cancellation of the current task (ours); False if somebody else cancelled it too."""
    return task is not None and task.uncancel() == 0


async def requests_of(
    stream: OpenStream, context: grpc.aio.ServicerContext[Any, Any], decode: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    """The requests of a stream, each decoded, until the client or `end` ends them."""
    while (data := await stream.read(context.read)) is not grpc.aio.EOF:
        yield decode(data)
