"""The `/ws` endpoint: who may connect, and all that are connected."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import WSCloseCode, web

from gateway import sessions
from gateway.exchange import Exchange
from gateway.web_security import Origins
from gateway.ws.connection import Connection, Surroundings
from kernel.reasons import Reason, Refused

_HEARTBEAT_SECONDS = 20.0
_CLOSE_SECONDS = 2.0
log = structlog.get_logger()


class WebSockets:
    """Upgrades requests and serves the connections."""

    def __init__(self, around: Surroundings, origins: Origins, max_connections: int) -> None:
        self._around = around
        self._origins = origins
        self._max = max_connections
        self._connections: set[Connection] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._connections)

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
        await self._around.callers.admit("", exchange.client_ip, "")
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
        log.info("ws_opened", client=exchange.client_ip, request_id=exchange.request_id)
        try:
            await connection.serve(sessions.upgrade_authorization(exchange))
        finally:
            self._connections.discard(connection)
            log.info("ws_closed", code=socket.close_code, request_id=exchange.request_id)
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
