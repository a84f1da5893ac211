"""The `/ws` endpoint: who may connect, and all that are connected."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial

import structlog
from aiohttp import WSCloseCode, web

from gateway import sessions
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.web_security import Origins
from gateway.ws.connection import DIRECT_BYTES, Connection, Surroundings, Traffic
from kernel.reasons import Reason, Refused

_HEARTBEAT_SECONDS = 20.0
_CLOSE_SECONDS = 2.0
log = structlog.get_logger()


class WebSockets:
    """Upgrades requests and serves the connections."""

    def __init__(
        self, around: Surroundings, origins: Origins, max_connections: int, max_of_address: int
    ) -> None:
        self._around = around
        self._origins = origins
        self._max = max_connections
        # Of one client, also behind a proxy, whose connections are not counted by address.
        self._max_of_address = max_of_address
        self._by_address: Counter[str] = Counter()
        self._connections: set[Connection] = set()
        # Of the connections that have gone.
        self._past = Traffic()
        self._draining = False

    def __len__(self) -> int:
        return len(self._connections)

    def traffic(self) -> Traffic:
        """What went over all connections since the start."""
        total = replace(self._past)
        for connection in self._connections:
            total.add(connection.traffic)
        return total

    def describe(self, metrics: Metrics) -> None:
        """Show all of it in the metrics."""
        counter, gauge = metrics.counter, metrics.gauge
        counter("tidebook_ws_frames_in_total", "Frames received", lambda: self.traffic().frames_in)
        counter("tidebook_ws_frames_out_total", "Frames sent", lambda: self.traffic().frames_out)
        counter("tidebook_ws_bytes_in_total", "Bytes received", lambda: self.traffic().bytes_in)
        counter("tidebook_ws_bytes_out_total", "Bytes sent", lambda: self.traffic().bytes_out)
        counter(
            "tidebook_ws_conflated_total",
            "Topics' waiting frames replaced by a snapshot",
            lambda: self.traffic().conflated,
        )
        gauge("tidebook_ws_connections", "WebSockets", lambda: len(self._connections))
        gauge("tidebook_ws_connections_max", "WebSockets it takes", lambda: self._max)
        for name, text, of, combine in (
            ("private", "WebSockets that speak for an account", _private, sum),
            ("subscriptions", "Topics listened to, over all WebSockets", _subscriptions, sum),
            ("slow", "WebSockets with more waiting than is sent at once", _slow, sum),
            ("waiting_bytes", "Written and not yet sent, over all WebSockets", _waiting, sum),
            ("waiting_bytes_max", "The same of the worst one", _waiting, max),
        ):
            gauge(f"tidebook_ws_{name}", text, partial(self._combined, of, combine))

    def _combined(
        self, of: Callable[[Connection], int], combine: Callable[[Iterable[int]], int]
    ) -> int:
        return combine([0, *map(of, self._connections)])

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """Serve one client until it goes.

        Raises `Refused`: a page of another origin (its user's cookie would speak for it), too many
        connections, a drain, not a WebSocket handshake.
        """
        if not self._origins.allows(exchange):
            raise Refused(Reason.CALLER_NOT_ALLOWED, "this origin may not connect")
        if self._draining:
            raise Refused(Reason.DRAINING)
        if len(self._connections) >= self._max:
            raise Refused(Reason.OVERLOADED, "too many connections; try again later")
        address = exchange.client_ip
        if self._by_address[address] >= self._max_of_address:
            raise Refused(
                Reason.RATE_LIMITED, "too many connections from this address", limit="connections"
            )
        await self._around.callers.admit("", address, "")
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT_SECONDS,
            timeout=_CLOSE_SECONDS,
            max_msg_size=self._around.limits.frame_bytes,
            # Frames are written once for all readers; compressing them for each would undo that.
            compress=False,
        )
        socket.headers.update(exchange.headers)
        try:
            await socket.prepare(exchange.request)
        except web.HTTPException as error:
            raise Refused(Reason.INVALID_ARGUMENT, error.text or "not a handshake") from error
        connection = Connection(self._around, socket, exchange)
        self._connections.add(connection)
        self._by_address[address] += 1
        log.info("ws_opened", client=address, request_id=exchange.request_id)
        try:
            await connection.serve(sessions.upgrade_authorization(exchange))
        finally:
            self._connections.discard(connection)
            self._by_address -= Counter({address: 1})
            self._past.add(connection.traffic)
            log.info(
                "ws_closed",
                code=socket.close_code,
                request_id=exchange.request_id,
                **asdict(connection.traffic),
            )
        return socket

    async def drain(self) -> None:
        """Send everybody away with 1001."""
        self._draining = True
        await asyncio.gather(
            *(
                connection.close(WSCloseCode.GOING_AWAY, Reason.DRAINING.name)
                for connection in tuple(self._connections)
            )
        )


def _private(connection: Connection) -> int:
    return connection.is_private


def _subscriptions(connection: Connection) -> int:
    return connection.subscriptions


def _waiting(connection: Connection) -> int:
    return connection.waiting_bytes


def _slow(connection: Connection) -> int:
    return connection.waiting_bytes > DIRECT_BYTES
