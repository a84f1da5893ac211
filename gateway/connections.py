"""The connections of the HTTP server: how many, how slow they may be, what is not even HTTP.

A client cannot hold a connection by doing nothing with it: a request's head and body arrive in
time, an answer is taken in time, or the connection is ended. One round a second looks at all of
them, which costs a busy connection nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from google.rpc import code_pb2

from gateway.errors import error_response
from gateway.express.lane import Express, Lane
from gateway.metrics import Metrics
from gateway.transcode import TranscodeError
from gateway.web_security import DATA_POLICY, HEADERS
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait
from mesh.config import Settings

# Of the request line and of each header.
LINE_MAX_BYTES = 8190
HEADERS_MAX = 128
# More than this is not read ahead of an answer.
_AHEAD_MAX_BYTES = 1 << 16
# A connection that was sent away is read for so long, or its answer might be lost on the way.
_LINGER_SECONDS = 1.0
_REQUEST_TIMEOUT = 408
_HEADERS_TOO_LARGE = 431
App = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long each may take (seconds)."""

    total: int
    per_address: int
    head_seconds: float
    body_seconds: float
    stalled_seconds: float
    idle_seconds: float

    @classmethod
    def of(cls, settings: Settings, total: int) -> ConnectionLimits:
        """Those that the settings say, for a process that can have `total` connections."""
        return cls(
            total=total,
            per_address=min(settings.connections_per_ip, total),
            head_seconds=settings.http_head_seconds,
            body_seconds=settings.http_body_seconds,
            stalled_seconds=settings.http_stalled_seconds,
            idle_seconds=settings.http_idle_seconds,
        )


class Server(web.Server):
    """Serves `app` on connections within limits. `is_proxy` says of an address that it speaks for
    many clients: it may have as many connections as there are.
    """

    def __init__(
        self,
        app: App,
        limits: ConnectionLimits,
        metrics: Metrics,
        is_proxy: Callable[[str], bool],
        express: Express,
    ) -> None:
        super().__init__(
            self._serve,
            access_log=None,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
        )
        self.limits = limits
        self.express = express
        self._app = app
        self._metrics = metrics
        self._is_proxy = is_proxy
        self._open: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._rounds = asyncio.create_task(self._look_around(), name="connections")

    def __call__(self) -> Connection:
        """A protocol for one connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def __len__(self) -> int:
        return len(self._open)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """End all connections; requests under way have `timeout` seconds."""
        await super().shutdown(timeout)
        await cancel_and_wait(self._rounds)

    def admit(self, connection: Connection) -> Refused | None:
        """Count a new connection in; why it cannot be, when it cannot."""
        self._open.add(connection)
        self._by_address[connection.address] += 1
        if len(self._open) > self.limits.total:
            return Refused(Reason.OVERLOADED, "too many connections; try again later")
        count = self._by_address[connection.address]
        if count > self.limits.per_address and not self._is_proxy(connection.address):
            return Refused(
                Reason.RATE_LIMITED, "too many connections from this address", limit="connections"
            )
        return None

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

    def cut(self, connection: Connection, why: str) -> None:
        """Note that a connection is ended for what its client does."""
        self._metrics.http_cut[why] += 1
        log.info("connection_cut", client=connection.address, why=why)

    def refused(self, connection: Connection, status: int, message: str) -> None:
        """Note a request that was no HTTP."""
        self._metrics.observe("none", status, 0.0)
        log.info("bad_request", client=connection.address, status=status, message=message)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.request_begins(request)
        try:
            response = await self._app(request)
        finally:
            connection.request_ends()
        if connection.is_over and not response.prepared:
            response.headers["Connection"] = "close"
        return response

    async def _look_around(self) -> None:
        limits = self.limits
        shortest = min(limits.head_seconds, limits.body_seconds, limits.stalled_seconds)
        while True:
            await asyncio.sleep(min(1.0, shortest / 4))
            for connection in tuple(self._open):
                connection.check(self._loop.time())


class Connection(web.RequestHandler):
    """One connection, and how far its request has come."""

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.address = ""
        self._server = server
        # What comes in is not looked at any more.
        self.is_over = False
        # Stays until the connection is lost, unlike `transport`: one that is closed may still
        # have something to send to a client that reads nothing.
        self._wire: asyncio.Transport | None = None
        self._request: web.BaseRequest | None = None
        self._request_at = 0.0
        # Of the request that came last, which may be answered before it is there.
        self._body: StreamReader | None = None
        # When the first byte of a head came that is not complete yet; 0 for none.
        self._head_at = 0.0
        self._unsent = 0
        self._unsent_at = 0.0
        self.lane = Lane(server.express, self)
        # Set when the lane is asked to finish.
        self._arrived: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one by what it does only.
        wire = self._wire = cast(asyncio.Transport, transport)
        peer = wire.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        refused = self._server.admit(self)
        super().connection_made(transport)
        if refused is not None:
            self._send_away(refused, "too_many")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.forget(self)
        self._wire = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_over:
            return
        if self.lane.busy:
            if self.lane.wait(data) > _AHEAD_MAX_BYTES and self._wire is not None:
                self._wire.pause_reading()
            return
        if self._waits:
            pieces = self.lane.take(data)
            self._stays()
        else:
            pieces = self.lane.pass_by(data)
        for piece in pieces:
            # One of nothing, too: so the library reads on where it had stopped.
            self._give(piece)

    @property
    def _waits(self) -> bool:
        """Whether the library waits for a request, and its answer would be taken soon."""
        waiter, wire = self._waiter, self._wire
        return (
            waiter is not None
            and not waiter.done()
            and not self._upgraded
            and wire is not None
            and wire.get_write_buffer_size() <= _AHEAD_MAX_BYTES
        )

    def _stays(self) -> None:
        """It is used: it does not end for having been idle."""
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout

    def answer(self, data: bytes, later: list[bytes]) -> None:
        """Send what the lane has answered; see `gateway.express.lane.Wire`."""
        if self._arrived is not None:
            self._arrived.set()
        if self._wire is None or self._wire.is_closing():
            return
        self._wire.write(data)
        self._stays()
        if not later:
            return
        self._wire.resume_reading()
        try:
            for piece in later:
                self.data_received(piece)
        except Exception as error:
            # It is no fault of the engine's stream, which brought the answer.
            log.error("connection_failed", exc_info=error)
            self._wire.abort()

    def _process_keepalive(self) -> None:
        if self.lane.busy:
            self._stays()
        super()._process_keepalive()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109
        """End it; a request under way has `timeout` seconds."""
        if self.lane.busy:
            self._arrived = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
        await super().shutdown(timeout)

    def _give(self, data: bytes) -> None:
        """Have the library read it."""
        if self._request is None and not self._head_at and self._has_body:
            self._head_at = self._loop.time()
        super().data_received(data)
        if self._messages and self._receives_body:
            # Nothing can follow a body that is not complete, but what is wrong with it.
            wrong = self._messages[-1][0]
            self._messages.clear()
            error = _not_http(getattr(wrong, "exc", None), getattr(wrong, "message", ""))
            self._server.refused(self, error.http_status, error.message)
            self._end_body(error)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # It is asked for after every body. Where nothing was paused there is nothing to go on with,
        # and to parse nothing costs as much as to parse a head.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    @property
    def _has_body(self) -> bool:
        """Whether what comes does not belong to the request that came last."""
        return self._body is None or self._body.is_eof()

    @property
    def _receives_body(self) -> bool:
        return self._request is not None and not self._has_body

    def request_begins(self, request: web.BaseRequest) -> None:
        """Its head is complete and the application has it."""
        self._request, self._request_at, self._head_at = request, self._loop.time(), 0.0
        self._body = request.content

    def request_ends(self) -> None:
        """The application has an answer to it."""
        self._request = None

    def check(self, now: float) -> None:
        """End what has taken too long."""
        wire, limits = self._wire, self._server.limits
        if wire is None:
            return
        for piece in self.lane.release():
            # The rest does not come at once: the library waits for it, for so long as it may.
            self._give(piece)
        unsent = wire.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_at = unsent, now
        elif now - self._unsent_at > limits.stalled_seconds:
            self._server.cut(self, "stalled")
            wire.abort()
            return
        if self._receives_body:
            if now - self._request_at > limits.body_seconds:
                self._server.cut(self, "slow_body")
                self._end_body(_too_slow("body", limits.body_seconds))
        elif self._head_at and now - self._head_at > limits.head_seconds and not self.is_over:
            self._send_away(_too_slow("head", limits.head_seconds), "slow_head")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a mistake of ours outside of the application."""
        if status >= 500:
            log.error("request_failed", exc_info=exc)
            error: Exception = exc if isinstance(exc, Exception) else RuntimeError()
        else:
            error = _not_http(exc, message or "this is not HTTP")
            self._server.refused(self, error.http_status, error.message)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        response = _answer(error)
        response.force_close()
        return response

    def _end_body(self, error: TranscodeError) -> None:
        """Give up on a body: whoever reads it gets the error, and this was the last request."""
        assert self._request is not None
        content = self._request.content
        content.set_exception(error)
        content.feed_eof()
        self._hang_up()

    def _send_away(self, error: Exception, why: str) -> None:
        """Answer without having read a request, and hang up."""
        self._server.cut(self, why)
        wire = self._wire
        assert wire is not None
        wire.write(_as_bytes(_answer(error)))
        if wire.can_write_eof():
            wire.write_eof()
        self._hang_up()

    def _hang_up(self) -> None:
        """End the connection soon: what is in flight would else make it end before the answer."""
        self.is_over = True
        if self._wire is not None:
            self._loop.call_later(_LINGER_SECONDS, self._wire.abort)


def _too_slow(part: str, seconds: float) -> TranscodeError:
    return TranscodeError(
        code_pb2.DEADLINE_EXCEEDED,
        f"the {part} of the request took longer than {seconds:g} s",
        http_status=_REQUEST_TIMEOUT,
        reason=Reason.DEADLINE_PASSED.name,
    )


def _not_http(exc: BaseException | None, message: str) -> TranscodeError:
    if isinstance(exc, LineTooLong):
        return TranscodeError(
            code_pb2.INVALID_ARGUMENT,
            f"the request line or a header is longer than {LINE_MAX_BYTES} bytes",
            http_status=_HEADERS_TOO_LARGE,
        )
    # What follows its first line is the request itself.
    return TranscodeError.invalid(message.partition("\n")[0].rstrip(":. "))


def _answer(error: Exception) -> web.Response:
    response = error_response(error)
    response.headers.update(HEADERS)
    response.headers["Content-Security-Policy"] = DATA_POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def _as_bytes(response: web.Response) -> bytes:
    body = response.body
    assert isinstance(body, bytes)
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
