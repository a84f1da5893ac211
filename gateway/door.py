"""The one gRPC door: public methods go through to the service that has them, bytes in, bytes out.

Nothing is decoded here. Deadline, metadata, trailing metadata and the rich status go through as
they are; a cancellation on either side ends the call on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gateway.api import RESERVED_METADATA
from gateway.callers import Callers
from gateway.errors import status_of
from gateway.services import UPSTREAM_SERVICES, rpc_path
from gateway.transcode import HeaderRules
from gateway.upstream import Metadata, Upstreams
from mesh.calls import current_call
from mesh.channel import cancelling
from mesh.server import Registration
from mesh.status import STATUS_DETAILS_KEY, code_of
from mesh.telemetry import SpanRecorder, TraceContext, current_trace, format_traceparent, set_trace

Context = grpc.aio.ServicerContext[bytes, bytes]
Behaviour = Callable[[str, Any, Context], Any]

_RULES = HeaderRules(reserved=RESERVED_METADATA - {"user-agent"})


class Door:
    """Handlers for every method of `UPSTREAM_SERVICES`."""

    def __init__(self, upstreams: Upstreams, callers: Callers, recorder: SpanRecorder) -> None:
        self._upstreams = upstreams
        self._callers = callers
        self._recorder = recorder
        self.calls_open = 0

    def registrations(self) -> list[Registration]:
        """What `ServiceHost.start` takes as `public`; makes reflection show the services too."""
        return [
            (_adder(service, self._handlers(service)), None)
            for services in UPSTREAM_SERVICES.values()
            for service in services
        ]

    def _handlers(self, service: ServiceDescriptor) -> dict[str, Any]:
        return {method.name: self._handler(method) for method in service.methods}

    def _handler(self, method: MethodDescriptor) -> Any:
        kinds: dict[tuple[bool, bool], tuple[Behaviour, Callable[..., Any]]] = {
            (False, False): (self._unary_unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (self._unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, False): (self._stream_unary, grpc.stream_unary_rpc_method_handler),
            (True, True): (self._stream_stream, grpc.stream_stream_rpc_method_handler),
        }
        behaviour, make = kinds[method.client_streaming, method.server_streaming]
        path = rpc_path(method)

        async def serve(request: Any, context: Context) -> Any:
            return await behaviour(path, request, context)

        return make(serve)

    async def _unary_unary(self, path: str, request: bytes, context: Context) -> bytes:
        async with self._calling(path, context) as (metadata, timeout):
            call = self._upstreams.raw(path)(request, metadata=metadata, timeout=timeout)
            async with cancelling(call):
                answer: bytes = await call
                await _finish(call, context)
        return answer

    async def _unary_stream(self, path: str, request: bytes, context: Context) -> None:
        async with self._calling(path, context) as (metadata, timeout):
            call = self._upstreams.raw(path)(request, metadata=metadata, timeout=timeout)
            async with cancelling(call):
                await _copy_answers(call, context)

    async def _stream_unary(
        self, path: str, requests: AsyncIterator[bytes], context: Context
    ) -> bytes:
        async with self._calling(path, context) as (metadata, timeout):
            call = self._upstreams.raw(path)(metadata=metadata, timeout=timeout)
            async with cancelling(call), _copying_requests(requests, call):
                answer: bytes = await call
                await _finish(call, context)
        return answer

    async def _stream_stream(
        self, path: str, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        async with self._calling(path, context) as (metadata, timeout):
            call = self._upstreams.raw(path)(metadata=metadata, timeout=timeout)
            async with cancelling(call), _copying_requests(requests, call):
                await _copy_answers(call, context)

    @contextlib.asynccontextmanager
    async def _calling(
        self, path: str, context: Context
    ) -> AsyncIterator[tuple[Metadata, float | None]]:
        """Around one call: limits before, the error as it came after, one span over all of it."""
        started = time.time_ns()
        given = tuple(context.invocation_metadata() or ())
        address = _address(context.peer())
        parent = current_trace()
        parented = any(key == "traceparent" for key, _ in given)
        trace = parent.child() if parent is not None and parented else parent
        set_trace(trace)
        call = current_call()
        status = "OK"
        self.calls_open += 1
        try:
            await self._callers.admit(path, address, call.authorization)
            yield (
                _metadata(given, address, trace, call.request_id, call.authorization),
                (context.time_remaining()),
            )
        except grpc.RpcError as error:
            status = await _abort(error, context)
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        except Exception as error:
            status = type(error).__name__
            raise
        finally:
            self.calls_open -= 1
            if trace is not None:
                self._recorder.record(
                    f"gateway {path[1:]}",
                    trace,
                    parent.span_id if parent is not None and parented else None,
                    started,
                    time.time_ns(),
                    status=status,
                )


def _adder(service: ServiceDescriptor, handlers: dict[str, Any]) -> Callable[[Any, Any], None]:
    """The function that generated code would have for this service."""

    def add_to_server(_: Any, server: Any) -> None:
        server.add_registered_method_handlers(service.full_name, handlers)

    return add_to_server


def _metadata(
    given: tuple[tuple[str, str | bytes], ...],
    address: str,
    trace: TraceContext | None,
    request_id: str,
    authorization: str,
) -> Metadata:
    kept = [(key, value) for key, value in given if not _RULES.is_reserved(key)]
    kept.append(("x-forwarded-for", address))
    if trace is not None:
        kept.append(("traceparent", format_traceparent(trace)))
    if request_id:
        kept.append(("x-request-id", request_id))
    if authorization:
        kept.append(("authorization", authorization))
    return tuple(kept)


async def _copy_answers(call: Any, context: Context) -> None:
    # What the service says before its first message must not wait for that message.
    headers = await call.initial_metadata()
    if headers:
        await context.send_initial_metadata(tuple(headers))
    while (message := await call.read()) is not grpc.aio.EOF:
        await context.write(message)
    await _end(call, context)


@contextlib.asynccontextmanager
async def _copying_requests(requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[None]:
    """Send the client's messages on meanwhile; when it closes its side, so do we."""

    async def copy() -> None:
        try:
            async for message in requests:
                await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            # The call has ended; whoever reads it learns why.
            return

    copier = asyncio.create_task(copy())
    try:
        yield
    finally:
        copier.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await copier


async def _finish(call: Any, context: Context) -> None:
    """Pass on what came with the answer of a call that worked."""
    headers = await call.initial_metadata()
    if headers:
        await context.send_initial_metadata(tuple(headers))
    await _end(call, context)


async def _end(call: Any, context: Context) -> None:
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        # A stream that is read by hand ends in EOF, whatever its status.
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
    trailers = await call.trailing_metadata()
    if trailers:
        context.set_trailing_metadata(tuple(trailers))


async def _abort(error: grpc.RpcError, context: Context) -> NoReturn:
    """End our call as the upstream call ended."""
    status = status_of(error)
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    if isinstance(error, grpc.aio.AioRpcError):
        trailers = tuple(
            (key, value)
            for key, value in error.trailing_metadata() or ()
            if key != STATUS_DETAILS_KEY
        )
    await context.abort(
        code_of(status.code),
        status.message,
        (*trailers, (STATUS_DETAILS_KEY, status.SerializeToString())),
    )


def _address(peer: str) -> str:
    """gRPC's `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000` -> the address alone."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "")
