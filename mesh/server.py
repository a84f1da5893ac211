"""A service's listeners: public with user tokens, internal with mTLS, both with health and
reflection, and a way to stop that leaves nobody without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from pydantic import ValidationError

from mesh.addresses import LOOPBACK, networks_of
from mesh.aio import first_crash, stop_on_crash
from mesh.config import Settings, load_settings, problems_of
from mesh.identity import ALLOWED_CALLERS, CertificateAuthority
from mesh.interceptors import Interceptors
from mesh.logging import setup_logging
from mesh.scheduling import run_in_turns
from mesh.streams import OpenStreams
from mesh.tokens import TokenVerifier

# (add_XServicer_to_server, servicer), as the generated code pairs them.
Registration = tuple[Callable[[Any, Any], None], Any]
# Method name -> grpc.RpcMethodHandler, which is generic to type checkers only.
Handlers = dict[str, Any]

_MINUTE_MS = 60_000
# For a client that connects and then says nothing.
_HANDSHAKE_MS = 10_000
_TELL_SECONDS = 0.05
log = structlog.get_logger()


class ServiceHost:
    """The running listeners of one service. Make it with `await ServiceHost.start(...)`."""

    def __init__(
        self, settings: Settings, service: str, checked_by_handler: frozenset[str]
    ) -> None:
        self.service = service
        self.public_port = 0
        self.internal_port = 0
        self.streams = OpenStreams(settings.grpc_max_message_bytes)
        self._settings = settings
        self._checked_by_handler = checked_by_handler
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []

    @classmethod
    async def start(
        cls,
        settings: Settings,
        *,
        service: str,
        public: Sequence[Registration] = (),
        internal: Sequence[Registration] = (),
        generic: Sequence[grpc.GenericRpcHandler] = (),
        verifier: TokenVerifier | None = None,
        checked_by_handler: frozenset[str] = frozenset(),
        serving: bool = True,
    ) -> ServiceHost:
        """Listen and serve.

        The public listener serves `public` and `generic` (handlers for whatever methods they know,
        bytes in and out); the internal one, which services in `ALLOWED_CALLERS` have, `public` and
        `internal`. Requests are held to the rules of their protos, but for methods (full names) in
        `checked_by_handler`: batches of which a bad item must be refused alone. With `serving`
        False health checks say no from the first moment on, until `set_serving`. Raises
        `SystemExit` with one clear line when a port cannot be had.
        """
        host = cls(settings, service, checked_by_handler)
        try:
            await host.set_serving(serving)
            await host._start(public, internal, generic, verifier)
        except BaseException:
            await host._stop_servers(0)
            raise
        return host

    async def _start(
        self,
        public: Sequence[Registration],
        internal: Sequence[Registration],
        generic: Sequence[grpc.GenericRpcHandler],
        verifier: TokenVerifier | None,
    ) -> None:
        settings, service = self._settings, self.service
        if verifier is not None and verifier.ended is not None:
            verifier.ended.on_end(self.streams.end_sessions)
        if public or generic:
            interceptors = self._interceptors(verifier, None, _plain_from(settings))
            server = self._server(
                public,
                interceptors,
                max_idle_ms=10 * _MINUTE_MS,
                shared=service == "gateway" and settings.gateway_processes > 1,
            )
            server.add_generic_rpc_handlers(tuple(_Wrapped(h, interceptors) for h in generic))
            self.public_port = self._listen(
                server,
                settings.public_host,
                settings.grpc_port if service == "gateway" else settings.public_port(service),
                _public_credentials(settings),
            )
        if service in ALLOWED_CALLERS:
            interceptors = self._interceptors(verifier, ALLOWED_CALLERS[service])
            server = self._server([*public, *internal], interceptors, max_idle_ms=None)
            self.internal_port = self._listen(
                server,
                settings.internal_host,
                settings.internal_port(service),
                _internal_credentials(settings, service),
            )
        for server in self._servers:
            await server.start()
        log.info(
            "service_listens",
            service=service,
            public_port=self.public_port,
            internal_port=self.internal_port,
        )

    def _interceptors(
        self,
        verifier: TokenVerifier | None,
        allowed: frozenset[str] | None,
        plain_from: tuple[str, ...] | None = None,
    ) -> Interceptors:
        return Interceptors(
            verifier=verifier,
            allowed_callers=allowed,
            plain_from=plain_from,
            streams=self.streams,
            slow_ms=self._settings.rpc_slow_ms,
            checked_by_handler=self._checked_by_handler,
        )

    def _server(
        self,
        registrations: Sequence[Registration],
        interceptors: Interceptors,
        *,
        max_idle_ms: int | None,
        shared: bool = False,
    ) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=server_options(self._settings, max_idle_ms=max_idle_ms, shared=shared)
        )
        self._servers.append(server)
        catcher = _HandlerCatcher()
        for add_to_server, servicer in registrations:
            add_to_server(servicer, catcher)
        names = tuple(catcher.services)
        interceptors.rules.warm(make() for make in _request_types(names))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, catcher)
        reflector = reflection.aio.ReflectionServicer(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, catcher)
        for name, handlers in catcher.services.items():
            wrapped = {
                method: interceptors.wrap(f"/{name}/{method}", handler)
                for method, handler in handlers.items()
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, wrapped),))
        return server

    def _listen(
        self,
        server: grpc.aio.Server,
        address: str,
        port: int,
        credentials: grpc.ServerCredentials | None,
    ) -> int:
        target = f"{address}:{port}"
        try:
            if credentials is None:
                bound = server.add_insecure_port(target)
            else:
                bound = server.add_secure_port(target, credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise SystemExit(f"{self.service}: cannot listen on {target}: is the port in use?")
        return bound

    async def set_serving(self, serving: bool, part: str = "") -> None:
        """What health checks answer: False while a service catches up or follows a leader.

        Clients with health checking go to another replica meanwhile. A `part` of what the service
        does is asked after by that name and says nothing about the whole.
        """
        status = health_pb2.HealthCheckResponse
        await self._health.set(part, status.SERVING if serving else status.NOT_SERVING)

    async def drain(self) -> None:
        """Stop without dropping anybody: health says so, streams end, calls finish, then close."""
        grace = self._settings.drain_seconds
        log.info("service_drains", service=self.service, streams=len(self.streams))
        await self._health.enter_graceful_shutdown()
        # Those who watch our health are told before their watch ends.
        await asyncio.sleep(_TELL_SECONDS)
        await self.streams.drain(grace / 2)
        await self._stop_servers(grace / 2)
        log.info("service_stopped", service=self.service)

    async def _stop_servers(self, grace: float) -> None:
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


class _HandlerCatcher:
    """Takes the place of a server in generated `add_*_to_server`, to get at the handlers."""

    def __init__(self) -> None:
        self.services: dict[str, Handlers] = {}

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """The same handlers again, in a form that cannot be listed."""

    def add_registered_method_handlers(self, service: str, handlers: Handlers) -> None:
        self.services[service] = handlers


class _Wrapped(grpc.GenericRpcHandler):
    """A generic handler whose methods pass the interceptors like any other."""

    def __init__(self, inner: grpc.GenericRpcHandler, interceptors: Interceptors) -> None:
        self._inner = inner
        self._interceptors = interceptors
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        handler = self._known.get(method)
        if handler is None:
            inner = self._inner.service(handler_call_details)
            if inner is None:
                return None
            handler = self._known[method] = self._interceptors.wrap(method, inner)
        return handler


def server_options(
    settings: Settings, *, max_idle_ms: int | None, shared: bool = False
) -> list[tuple[str, int]]:
    """Options of every Tidebook server; `shared` says that several processes have one port."""
    options = [
        # Else a second start of the same service must fail, not share the port.
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_receive_message_length", settings.grpc_max_message_bytes),
        ("grpc.max_send_message_length", settings.grpc_max_message_bytes),
        # Clients ping every 30 s (see mesh.channel); without this they would get a GOAWAY.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Now and then a GOAWAY makes clients look for new replicas. No grace period is set, so
        # streams that are open go on for as long as they like.
        ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
        ("grpc.max_concurrent_streams", 1000),
    ]
    if max_idle_ms is not None:
        # Anybody's connections.
        options += [
            ("grpc.max_connection_idle_ms", max_idle_ms),
            ("grpc.max_allowed_incoming_connections", settings.grpc_max_connections),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ]
    return options


def _request_types(services: Iterable[str]) -> Iterator[Callable[[], Any]]:
    pool = descriptor_pool.Default()
    for name in services:
        for method in pool.FindServiceByName(name).methods:
            yield message_factory.GetMessageClass(method.input_type)


def _public_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    certificate, key = settings.public_tls_cert, settings.public_tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise SystemExit("set both TIDEBOOK_PUBLIC_TLS_CERT and TIDEBOOK_PUBLIC_TLS_KEY, or none")
    return grpc.ssl_server_credentials([(_read(key), _read(certificate))])


def _plain_from(settings: Settings) -> tuple[str, ...] | None:
    """Who may call a public listener that has no certificate; None for everybody."""
    if not settings.https_required or settings.public_tls_cert is not None:
        return None
    try:
        return (*LOOPBACK, *networks_of(settings.trusted_proxies))
    except ValueError as error:
        raise SystemExit(f"TIDEBOOK_TRUSTED_PROXIES: {error}") from None


def _internal_credentials(settings: Settings, service: str) -> grpc.ServerCredentials:
    files = CertificateAuthority(settings.certificates_dir).issue(service)
    return grpc.ssl_server_credentials(
        [(_read(files.key), _read(files.certificate))],
        root_certificates=_read(files.authority),
        require_client_auth=True,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {path}: {error.strerror}") from error


def run_service(
    main: Callable[[Settings, asyncio.Event], Awaitable[None]], service: str = "tidebook"
) -> None:
    """Run a service process: settings, logs, uvloop, and signals that set the `stop` event.

    `main` returns after it has drained; a second Ctrl-C ends the process at once. Exits with 1
    when a supervised background task crashed.
    """
    try:
        settings = load_settings()
    except ValidationError as error:
        raise SystemExit("\n".join(problems_of(error))) from None
    setup_logging(service, settings)
    if settings.batch_scheduling:
        # Before there are threads: each has a policy of its own, which it gets from its maker.
        run_in_turns()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_stopped(main, settings))
    if first_crash() is not None:
        raise SystemExit(1)


async def _until_stopped(
    main: Callable[[Settings, asyncio.Event], Awaitable[None]], settings: Settings
) -> None:
    stop = asyncio.Event()

    def interrupt() -> None:
        # Ctrl-C twice means now. A SIGTERM after a SIGINT does not: on Ctrl-C a service gets one
        # from the terminal and one from its supervisor.
        if stop.is_set():
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    stop_on_crash(stop.set)
    await main(settings, stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    # No uvloop on some platforms; asyncio's own loop does the same, only slower.
    with contextlib.suppress(ImportError):
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
        return factory
    return None
