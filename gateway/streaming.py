"""Server streams over HTTP: lines of `{"result": ...}`, and a last `{"error": ...}`; or a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import orjson
from aiohttp import web
from google.protobuf.message import Message

from gateway.errors import JSON, status_of
from gateway.exchange import Exchange
from gateway.transcode import status_to_dict
from mesh.channel import cancelling
from mesh.status import http_status_of

# A stream that has nothing to say yet begins its response after this long.
FIRST_MESSAGE_SECONDS = 0.5
_DISCONNECT_POLL_SECONDS = 1.0
CSV = "text/csv"


def wants_csv(exchange: Exchange) -> bool:
    """Whether the client accepts CSV by name."""
    accepted = exchange.request.headers.get("Accept", "").split(",")
    return CSV in (part.partition(";")[0].strip().lower() for part in accepted)


async def stream_file(exchange: Exchange, call: Any) -> web.StreamResponse:
    """Answer with the pieces of a CSV file, otherwise as `stream_lines`.

    An error on the way cuts the connection, so that nobody takes what came for the whole.
    """
    response = web.StreamResponse(headers={"Content-Type": f"{CSV}; charset=utf-8"})
    response.headers["Content-Disposition"] = 'attachment; filename="tidebook.csv"'
    return await _stream(exchange, call, _csv, response)


async def stream_lines(
    exchange: Exchange, call: Any, encode: Callable[[Message], Any]
) -> web.StreamResponse:
    """Answer with the messages of `call` until it ends, breaks, or the client goes.

    An error before anything was sent decides the HTTP status; later it is the last line.
    """
    response = web.StreamResponse(headers={"Content-Type": JSON})
    return await _stream(
        exchange, call, lambda message: _line({"result": encode(message)}), response
    )


async def _stream(
    exchange: Exchange,
    call: Any,
    encode: Callable[[Message], bytes],
    response: web.StreamResponse,
) -> web.StreamResponse:
    response.headers.update(exchange.headers)
    # Proxies must not hold lines back.
    response.headers["X-Accel-Buffering"] = "no"
    try:
        async with cancelling(call), _cancelled_on_disconnect(exchange, call):
            await _copy(exchange, call, encode, response)
    except grpc.RpcError as error:
        status = status_of(error)
        line = _line({"error": status_to_dict(status)})
        if not response.prepared:
            return web.Response(status=http_status_of(status.code), body=line, content_type=JSON)
        if response.content_type != JSON:
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
            return response
        await response.write(line)
    except ConnectionResetError:
        return response
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not call.cancelled() or (task is not None and task.cancelling()):
            raise
        # Our own watcher: the client has gone.
        return response
    await response.write_eof()
    return response


async def _copy(
    exchange: Exchange,
    call: Any,
    encode: Callable[[Message], bytes],
    response: web.StreamResponse,
) -> None:
    reading = asyncio.ensure_future(call.read())
    await asyncio.wait({reading}, timeout=FIRST_MESSAGE_SECONDS)
    if not reading.done():
        await response.prepare(exchange.request)
    message = await reading
    if not response.prepared:
        await response.prepare(exchange.request)
    while message is not grpc.aio.EOF:
        await response.write(encode(message))
        message = await call.read()


@contextlib.asynccontextmanager
async def _cancelled_on_disconnect(exchange: Exchange, call: Any) -> AsyncIterator[None]:
    """Cancel `call` when the client goes: a quiet stream would notice only with its next line."""

    async def watch() -> None:
        while True:
            transport = exchange.request.transport
            if transport is None or transport.is_closing():
                call.cancel()
                return
            await asyncio.sleep(_DISCONNECT_POLL_SECONDS)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _csv(piece: Any) -> bytes:
    return str(piece.csv).encode()


def _line(data: dict[str, Any]) -> bytes:
    return orjson.dumps(data) + b"\n"
