"""The streams a server has open, and how they are ended when it drains.

A stream of requests is ended as if the client had closed its side, so that what is in flight is
still answered; a stream of responses is cancelled. Both then end with `DRAINING`, and the client
goes on elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from kernel.reasons import Reason, Refused


class OpenStream:
    """One stream under way: the task that serves it, and the task that waits for a request."""

    __slots__ = ("_reader", "_task", "draining", "takes_requests", "writing")

    def __init__(self, task: asyncio.Task[Any], *, takes_requests: bool) -> None:
        self.takes_requests = takes_requests
        self.draining = False
        self.writing = False
        self._task = task
        self._reader: asyncio.Task[Any] | None = None

    async def read(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """The next request, or `grpc.aio.EOF` when the client or the drain ended the requests."""
        if self.draining:
            return grpc.aio.EOF
        self._reader = asyncio.current_task()
        try:
            return await read()
        except asyncio.CancelledError:
            if self.draining and take_back_cancel(self._reader):
                return grpc.aio.EOF
            raise
        finally:
            self._reader = None

    async def write(self, write: Callable[[Any], Awaitable[None]], message: Any) -> None:
        """Send a response; raises `Refused(DRAINING)` when a watch was asked to end meanwhile."""
        self.writing = True
        await write(message)
        # Stays true when the write was cancelled: gRPC then cannot send a status any more.
        self.writing = False
        if self.draining and not self.takes_requests:
            raise Refused(Reason.DRAINING)

    def end(self) -> None:
        """Ask the stream to end: no more requests, or, without requests, a cancellation."""
        self.draining = True
        if not self.takes_requests:
            if not self.writing:
                self._task.cancel()
        elif self._reader is not None:
            self._reader.cancel()

    def cancel(self) -> None:
        """End the stream now."""
        self.draining = True
        self._task.cancel()


class OpenStreams:
    """All streams of a service, over all its listeners."""

    def __init__(self) -> None:
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
        stream = OpenStream(task, takes_requests=takes_requests)
        self._streams.add(stream)
        self._none_open.clear()
        return stream

    def close(self, stream: OpenStream) -> None:
        """The stream has ended."""
        self._streams.discard(stream)
        if not self._streams:
            self._none_open.set()

    async def drain(self, seconds: float) -> None:
        """End all streams; those that go on for longer than `seconds` are cancelled."""
        self._draining = True
        for stream in tuple(self._streams):
            stream.end()
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
    """The requests of a stream, each decoded, until the client or the drain ends them."""
    while (data := await stream.read(context.read)) is not grpc.aio.EOF:
        yield decode(data)
