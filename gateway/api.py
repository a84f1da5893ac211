"""HTTP requests for RPCs: decode, call, encode. Routes come from the descriptors alone."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web

from gateway import sessions
from gateway.callers import Callers
from gateway.errors import JSON, error_response, is_fault
from gateway.exchange import Exchange
from gateway.local import LocalServices
from gateway.order_line import OrderLines
from gateway.previous_sessions import PreviousSessions
from gateway.streaming import stream_file, stream_lines, wants_csv
from gateway.transcode import (
    HeaderRules,
    Route,
    Router,
    TranscodeError,
    parse_grpc_timeout,
)
from gateway.upstream import Metadata, Upstreams
from mesh.channel import cancelling
from mesh.identity import set_caller
from mesh.interceptors import is_public
from mesh.telemetry import format_traceparent
from mesh.tokens import bearer_token

BODY_MAX_BYTES = 1 << 20
_RESOURCE_EXHAUSTED = 8
# Set by the gateway itself; a client's `Grpc-Metadata-*` must not get past it.
RESERVED_METADATA = frozenset(
    {
        "authorization",
        "cookie",
        "content-type",
        "host",
        "te",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-request-id",
        "grpc-",
        "grpcgateway-",
        "x-forwarded-",
        "x-tidebook-",
    }
)
log = structlog.get_logger()


class Api:
    """Serves every route of the router."""

    def __init__(
        self,
        router: Router,
        upstreams: Upstreams,
        local: LocalServices,
        callers: Callers,
        lines: OrderLines,
        previous: PreviousSessions,
    ) -> None:
        self._router = router
        self._upstreams = upstreams
        self._local = local
        self._callers = callers
        self._lines = lines
        self._previous = previous
        self._headers = HeaderRules(reserved=RESERVED_METADATA, forward=frozenset({"user-agent"}))
        self.streams_open = 0

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """The response to a request for an RPC, errors included."""
        rpc_path = ""
        try:
            match = self._router.match(exchange.method, exchange.path)
            route = match.route
            rpc_path = route.rpc_path
            exchange.name = route.name
            authorization = sessions.authorization_of(exchange, rpc_path)
            caller, limit_headers = await self._callers.admit(
                rpc_path, exchange.client_ip, authorization
            )
            exchange.headers.update(limit_headers)
            if not (caller.account_id or is_public(rpc_path) or route.server_streaming):
                # Who is not let in need not know what else is wrong.
                caller = await self._callers.need(authorization, exchange.client_ip)
            message = route.decode(match.captured, exchange.query, await read_body(exchange))
            wants_cookies = sessions.complete_request(exchange, message)
            timeout = self._timeout(exchange)
            if not self._upstreams.serves(route.service):
                set_caller(caller)
                return _json(route.encode(await self._local.call(route, message)))
            line = self._lines.line_for(rpc_path, message)
            if line is not None:
                exchange.by_line = True
                set_caller(caller)
                seconds = self._upstreams.max_seconds
                answer = await self._lines.call(
                    line,
                    rpc_path,
                    message,
                    token=bearer_token(authorization) or "",
                    traceparent=format_traceparent(exchange.trace),
                    seconds=seconds if timeout is None else min(timeout, seconds),
                )
                return _json(route.encode(answer))
            metadata = self._metadata(exchange, authorization)
            call = self._upstreams.call(route, message, metadata=metadata, timeout=timeout)
            if route.server_streaming:
                return await self._stream(exchange, route, call)
            async with cancelling(call):
                answer = await call
                headers = self._headers.outgoing(
                    await call.initial_metadata() or (), prefix="Grpc-Metadata-"
                )
            tokens = sessions.take_tokens(answer) if wants_cookies else None
            response = _json(route.encode(answer), headers)
            if tokens is not None:
                sessions.set_cookies(response, exchange, tokens)
                previous = sessions.previous_token(exchange, answer)
                if previous:
                    await self._previous.end(previous, self._metadata(exchange, ""))
        except Exception as error:
            response = self._failed(error, exchange)
        if sessions.ends_session(rpc_path):
            sessions.clear_cookies(response, exchange)
        return response

    async def _stream(self, exchange: Exchange, route: Route, call: Any) -> web.StreamResponse:
        self.streams_open += 1
        try:
            if route.is_csv and wants_csv(exchange):
                return await stream_file(exchange, call)
            return await stream_lines(exchange, call, route.encode_data)
        finally:
            self.streams_open -= 1

    def _failed(self, error: Exception, exchange: Exchange) -> web.Response:
        if is_fault(error):
            log.error("request_failed", route=exchange.name, exc_info=error)
        return error_response(error)

    def _metadata(self, exchange: Exchange, authorization: str) -> Metadata:
        own: list[tuple[str, str | bytes]] = [
            ("x-request-id", exchange.request_id),
            ("traceparent", format_traceparent(exchange.trace)),
            ("x-forwarded-for", exchange.client_ip),
        ]
        if authorization:
            own.append(("authorization", authorization))
        return (*own, *self._headers.incoming(exchange.request.headers.items()))

    def _timeout(self, exchange: Exchange) -> float | None:
        text = exchange.request.headers.get("Grpc-Timeout")
        return None if text is None else parse_grpc_timeout(text)


async def read_body(exchange: Exchange) -> bytes:
    """The body; raises `TranscodeError` (413) when it is larger than `BODY_MAX_BYTES`."""
    request = exchange.request
    if not request.body_exists:
        return b""
    try:
        if (request.content_length or 0) > BODY_MAX_BYTES:
            raise web.HTTPRequestEntityTooLarge(BODY_MAX_BYTES)
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TranscodeError(
            _RESOURCE_EXHAUSTED,
            f"the body is larger than {BODY_MAX_BYTES} bytes",
            http_status=413,
        ) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        # Cut off, or not compressed as its header says.
        raise TranscodeError.invalid("the body cannot be read") from error


def _json(body: bytes, headers: Metadata = ()) -> web.Response:
    response = web.Response(body=body, content_type=JSON)
    for name, value in headers:
        response.headers.add(name, str(value))
    return response
