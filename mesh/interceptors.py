"""What every call passes before and after its handler: identity, validation, errors, access log.

Handlers are wrapped once, when they are registered, so a call pays for no interceptor chain and no
look-up of what is known beforehand about its method.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import asyncpg
import grpc
import redis.exceptions
import structlog
from google.protobuf.message import DecodeError

from kernel.reasons import Reason, Refused
from mesh.addresses import address_of_peer, client_address, is_within
from mesh.calls import AUTHORIZATION, REQUEST_ID, CallContext, set_call
from mesh.identity import ANONYMOUS, Caller, current_caller, service_of_spiffe, set_caller
from mesh.status import STATUS_DETAILS_KEY, refused_from, status_for, to_rpc_status
from mesh.streams import OpenStreams, requests_of, take_back_cancel
from mesh.telemetry import TRACEPARENT, new_trace, parse_traceparent, set_trace
from mesh.tokens import TokenVerifier, bearer_token, check_address
from mesh.validation import InvalidRequest, MessageRules

# Methods anyone may call without a token, as full names; a trailing "/" stands for the service.
PUBLIC_METHODS: frozenset[str] = frozenset(
    {
        "/grpc.health.v1.Health/",
        "/grpc.reflection.v1alpha.ServerReflection/",
        "/tidebook.engine.v1.MarketService/",
        "/tidebook.marketdata.v1.MarketDataService/",
        "/tidebook.auth.v1.AuthService/SignUp",
        "/tidebook.auth.v1.AuthService/VerifyOtp",
        "/tidebook.auth.v1.AuthService/SignIn",
        "/tidebook.auth.v1.AuthService/RefreshToken",
        "/tidebook.auth.v1.AuthService/RequestPasswordReset",
        "/tidebook.auth.v1.AuthService/ResetPassword",
        "/tidebook.auth.v1.AuthService/ExchangeApiKey",
        "/tidebook.auth.v1.AuthService/GetSigningKeys",
        "/tidebook.settlement.v1.LedgerService/GetReconciliation",
        "/tidebook.settlement.v1.LedgerService/GetProof",
        "/tidebook.gateway.v1.DevService/",
    }
)
# A unary call without a deadline ends after this many seconds all the same.
UNARY_MAX_SECONDS = 60.0
_SAN = "x509_subject_alternative_name"
_STORE_UNREACHABLE = (
    ConnectionError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)
# What an operator must look into; all other ends are the caller's business or a matter of course.
_OUR_FAULT = frozenset({Reason.INTERNAL, Reason.UNSPECIFIED})

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger()


def is_public(method: str) -> bool:
    """Whether a method (`/package.Service/Method`) is open without a token."""
    return method in PUBLIC_METHODS or method[: method.rindex("/") + 1] in PUBLIC_METHODS


@dataclass(frozen=True, slots=True)
class Method:
    """What is known about a method before any call of it."""

    name: str
    public: bool
    # Health and reflection: neither validated nor logged.
    infrastructure: bool
    validated: bool
    # Bytes -> request; None where bytes are passed on as they are.
    decode: Callable[[bytes], Any] | None


class Interceptors:
    """Wraps the handlers of one listener.

    `allowed_callers` is None on public listeners, where a token is needed; on internal ones it is
    the services whose certificates may call. `plain_from` are the networks whose calls are taken
    without TLS; None when they all are, or all have it. `checked_by_handler` are full names of
    methods whose handlers check requests themselves.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier | None,
        allowed_callers: frozenset[str] | None,
        plain_from: tuple[str, ...] | None = None,
        streams: OpenStreams,
        slow_ms: int,
        checked_by_handler: frozenset[str] = frozenset(),
    ) -> None:
        self.rules = MessageRules()
        self._verifier = verifier
        self._allowed = allowed_callers
        self._plain_from = plain_from
        self._streams = streams
        self._slow_seconds = slow_ms / 1000
        self._checked_by_handler = checked_by_handler

    def wrap(self, method_name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
        """The handler with everything around it, to be registered in its place."""
        infrastructure = method_name.startswith("/grpc.")
        method = Method(
            name=method_name,
            public=is_public(method_name),
            infrastructure=infrastructure,
            # Bytes that are only passed on are validated where they are decoded.
            validated=(
                not infrastructure
                and handler.request_deserializer is not None
                and method_name not in self._checked_by_handler
            ),
            decode=handler.request_deserializer,
        )
        wrapped: Any
        make: Callable[..., Any]
        if handler.unary_unary is not None:
            make = grpc.unary_unary_rpc_method_handler
            wrapped = self._unary(method, _async(method_name, handler.unary_unary))
        elif handler.unary_stream is not None:
            make = grpc.unary_stream_rpc_method_handler
            wrapped = self._stream(
                method, _async(method_name, handler.unary_stream), takes_requests=False
            )
        elif handler.stream_unary is not None:
            make = grpc.stream_unary_rpc_method_handler
            wrapped = self._stream(
                method, _async(method_name, handler.stream_unary), takes_requests=True
            )
        else:
            make = grpc.stream_stream_rpc_method_handler
            wrapped = self._stream(
                method, _async(method_name, handler.stream_stream), takes_requests=True
            )
        # Requests are decoded here, not by gRPC, which has no typed answer to bytes that are none.
        return make(wrapped, response_serializer=handler.response_serializer)

    def _request(self, method: Method, data: bytes) -> Any:
        """The request in `data`, decoded and held to its rules; raises `Refused`."""
        if method.decode is None:
            return data
        try:
            request = method.decode(data)
        except DecodeError as error:
            raise Refused(
                Reason.INVALID_ARGUMENT, "the request is not a message of this method"
            ) from error
        if method.validated:
            self.rules.check(request)
        return request

    def _unary(self, method: Method, handler: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def serve(data: bytes, context: Context) -> Any:
            started = time.monotonic()
            try:
                remaining = await self._enter(method, context, started)
                request = self._request(method, data)
                if remaining is not None:
                    # gRPC itself cancels a handler whose caller's deadline has passed.
                    response = await handler(request, context)
                else:
                    async with asyncio.timeout(UNARY_MAX_SECONDS):
                        response = await handler(request, context)
            except asyncio.CancelledError:
                _log_end(method, started, "call_cancelled")
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._fail(method, context, started, error)
            took = time.monotonic() - started
            if took >= self._slow_seconds and not method.infrastructure:
                log.info("call_slow", method=method.name, ms=round(took * 1000, 1))
            else:
                log.debug("call", method=method.name, ms=round(took * 1000, 1))
            return response

        return serve

    def _stream(
        self,
        method: Method,
        handler: Callable[[Any, Context], Any],
        *,
        takes_requests: bool,
    ) -> Any:
        yields = inspect.isasyncgenfunction(handler)
        decode = functools.partial(self._request, method)

        async def serve(data: Any, context: Context) -> Any:
            started = time.monotonic()
            response: Any = None
            stream = None
            try:
                stream = self._streams.open(takes_requests=takes_requests)
                await self._enter(method, context, started)
                caller = current_caller()
                # What is only passed on is ended by the service that decodes it.
                if caller.account_id and self._verifier is not None and method.decode is not None:
                    address = client_address(context, from_service=caller.service is not None)
                    stream.guard(caller, self._verifier, address)
                if not method.infrastructure:
                    log.info("stream_opened", method=method.name)
                request = requests_of(stream, context, decode) if takes_requests else decode(data)
                if yields:
                    # Written from here, not by gRPC, so that the generator is always closed and an
                    # end meets this code wherever it is waiting.
                    async with contextlib.aclosing(handler(request, context)) as responses:
                        async for message in responses:
                            await stream.write(context.write, message)
                else:
                    response = await handler(request, context)
                if stream.ending is not None and yields:
                    raise stream.ending
            except asyncio.CancelledError:
                if (
                    stream is None
                    or stream.ending is None
                    or stream.writing
                    or not take_back_cancel(asyncio.current_task())
                ):
                    _log_end(method, started, "stream_cancelled")
                    raise
                await self._fail(method, context, started, stream.ending)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._fail(method, context, started, error)
            finally:
                if stream is not None:
                    self._streams.close(stream)
            _log_end(method, started, "stream_ended")
            return response

        return serve

    async def _enter(self, method: Method, context: Context, started: float) -> float | None:
        """Set who calls and in which context; returns the seconds left, None without a deadline."""
        if (
            self._plain_from is not None
            and not method.infrastructure
            and not is_within(address_of_peer(context.peer()), self._plain_from)
        ):
            raise Refused(Reason.HTTPS_REQUIRED, "calls are taken over TLS alone")
        authorization = request_id = traceparent = ""
        for key, value in context.invocation_metadata() or ():
            if key == AUTHORIZATION:
                authorization = _text(value)
            elif key == TRACEPARENT:
                traceparent = _text(value)
            elif key == REQUEST_ID:
                request_id = _text(value)[:64]
        # Each call is served in its own task, so there is nothing to reset afterwards.
        set_trace(parse_traceparent(traceparent) or new_trace())
        remaining = context.time_remaining()
        deadline = None if remaining is None else started + remaining
        set_call(CallContext(method.name, request_id, authorization, deadline))
        set_caller(await self._identify(method, context, authorization))
        return remaining

    async def _identify(self, method: Method, context: Context, authorization: str) -> Caller:
        service = None
        if self._allowed is not None:
            service = peer_service(context)
            # Health answers every peer of the mesh: one that may not call here should learn that
            # from its call, not from a channel that never gets ready.
            if service not in self._allowed and not method.infrastructure:
                raise Refused(
                    Reason.CALLER_NOT_ALLOWED, f"{service or 'this peer'} may not call here"
                )
        if method.public or not authorization:
            if service is not None:
                return Caller(service=service)
            if method.public:
                return ANONYMOUS
            raise Refused(Reason.UNAUTHENTICATED, "an access token is required")
        token = bearer_token(authorization)
        if token is None:
            raise Refused(Reason.TOKEN_INVALID, "authorization must be `Bearer <access token>`")
        if self._verifier is None:
            raise Refused(Reason.UNAUTHENTICATED, "no tokens are taken here")
        caller = await self._verifier.verify(token)
        if caller.networks:
            check_address(caller, client_address(context, from_service=service is not None))
        return caller if service is None else replace(caller, service=service)

    async def _fail(
        self, method: Method, context: Context, started: float, error: Exception
    ) -> NoReturn:
        """End the call with the status for `error`; unknown ones are logged and not shown."""
        refused = to_refused(error)
        ms = round((time.monotonic() - started) * 1000, 1)
        if refused.reason in _OUR_FAULT:
            log.error("call_crashed", method=method.name, ms=ms, exc_info=error)
        elif not method.infrastructure:
            log.info(
                "call_refused",
                method=method.name,
                ms=ms,
                reason=refused.reason.name,
                message=refused.message,
            )
        violations = refused.violations if isinstance(refused, InvalidRequest) else ()
        details = to_rpc_status(refused, violations=violations).SerializeToString()
        await context.abort(
            status_for(refused.reason), refused.message, ((STATUS_DETAILS_KEY, details),)
        )


def to_refused(error: Exception) -> Refused:
    """What an exception that left a handler means to the caller. Nothing internal is shown."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, grpc.RpcError):
        return refused_from(error)
    if isinstance(error, _STORE_UNREACHABLE):
        return Refused(Reason.UNAVAILABLE, "a store is not reachable right now; try again")
    if isinstance(error, asyncpg.CharacterNotInRepertoireError):
        return Refused(Reason.INVALID_ARGUMENT, "a text holds the character U+0000")
    if isinstance(error, TimeoutError):
        return Refused(Reason.DEADLINE_PASSED, "it took too long; it may still have happened")
    return Refused(Reason.INTERNAL, "an internal error; it was logged")


def _async(method_name: str, behaviour: Any) -> Any:
    """The behaviour if it is async, a refusal for a method that its servicer does not have."""
    if inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour):
        return behaviour
    if inspect.unwrap(behaviour).__module__.endswith("_pb2_grpc"):
        return _unsupported
    raise TypeError(f"{method_name}: handlers must be async")


async def _unsupported(_: Any, __: Context) -> NoReturn:
    raise Refused(Reason.NOT_IMPLEMENTED, "this method is not available yet")


def peer_service(context: Context) -> str | None:
    """The service a peer's verified certificate names, None if it names none."""
    names: Mapping[str, Iterable[bytes]] = context.auth_context()
    for name in names.get(_SAN, ()):
        service = service_of_spiffe(name.decode())
        if service is not None:
            return service
    return None


def _log_end(method: Method, started: float, event: str) -> None:
    if not method.infrastructure:
        log.info(event, method=method.name, ms=round((time.monotonic() - started) * 1000, 1))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")
