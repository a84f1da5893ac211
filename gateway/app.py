"""The HTTP server: one function from request to response, and what surrounds every request."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import orjson
import structlog
from aiohttp import web

from gateway import metrics as metrics_module
from gateway.api import Api
from gateway.connections import Connection, Server
from gateway.errors import error_response, is_fault
from gateway.exchange import Exchange, Networks, ProxyRules, begin
from gateway.express.lane import Express
from gateway.metrics import Metrics
from gateway.requests import Requests
from gateway.site import Site
from gateway.transcode import TranscodeError
from gateway.transcode.errors import NOT_FOUND, UNIMPLEMENTED
from gateway.upstream import Upstreams, can_serve
from gateway.web_security import Origins, secure
from kernel.reasons import Reason, Refused
from mesh.config import Settings
from mesh.telemetry import format_traceparent, set_trace

# Paths that belong to RPCs; what is not found there is an error body and never the page.
_API_PREFIXES = ("/v1/", "/dev/")
# What watches us asks for these, from inside.
HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
# The port that plain HTTP came to says nothing about that of https.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_READY_CACHE_SECONDS = 1.0
Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]
log = structlog.get_logger()


class App:
    """Everything the gateway answers over HTTP. `pages` are exact paths besides the API."""

    def __init__(
        self,
        *,
        api: Api,
        site: Site,
        origins: Origins,
        proxies: ProxyRules,
        https_required: bool,
        requests: Requests,
        express: Express,
        pages: dict[str, Handler],
    ) -> None:
        self._api = api
        self._site = site
        self._origins = origins
        self._proxies = proxies
        self._https_required = https_required
        self._requests = requests
        self._express = express
        self._pages = pages

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        exchange = begin(request, self._proxies)
        set_trace(exchange.trace)
        secure(exchange)
        exchange.headers["X-Request-Id"] = exchange.request_id
        exchange.headers["traceparent"] = format_traceparent(exchange.trace)
        self._origins.add_headers(exchange)
        self._requests.begin()
        status = 499
        try:
            response = await self._respond(exchange)
            status = response.status
            if not response.prepared:
                headers = response.headers
                for name, value in exchange.headers.items():
                    headers.setdefault(name, value)
            return response
        finally:
            self._requests.finish(
                exchange.name,
                status,
                exchange.request_id,
                exchange.trace,
                exchange.parent_span_id,
                exchange.start_ns,
                exchange.started,
            )
            connection = request.protocol
            assert isinstance(connection, Connection)
            self._express.learn(connection.lane, exchange, status)

    async def _respond(self, exchange: Exchange) -> web.StreamResponse:
        if self._https_required and not exchange.https and exchange.path not in HEALTH_PATHS:
            return self._sent_to_https(exchange)
        preflight = self._origins.preflight(exchange)
        if preflight is not None:
            return preflight
        if exchange.path.startswith(_API_PREFIXES):
            return await self._api.handle(exchange)
        page = self._pages.get(exchange.path)
        try:
            if page is not None:
                exchange.name = exchange.path
                if exchange.method not in ("GET", "HEAD"):
                    raise TranscodeError(
                        UNIMPLEMENTED,
                        f"{exchange.method} is not possible here",
                        http_status=405,
                        reason="NOT_IMPLEMENTED",
                        headers=(("Allow", "GET, HEAD"),),
                    )
                return await page(exchange)
            found = self._site.handle(exchange)
            if found is None:
                raise TranscodeError(NOT_FOUND, "there is nothing here", reason="NOT_FOUND")
            return found
        except Exception as error:
            if is_fault(error):
                log.error("request_failed", route=exchange.name, exc_info=error)
            return error_response(error)

    def _sent_to_https(self, exchange: Exchange) -> web.Response:
        """To https with a person; a program is told: it would send its secrets first each time."""
        host = _HOST.fullmatch(exchange.request.headers.get("Host", ""))
        api = exchange.path == "/ws" or exchange.path.startswith(_API_PREFIXES)
        if api or host is None or exchange.method not in ("GET", "HEAD"):
            return error_response(Refused(Reason.HTTPS_REQUIRED, "this is served by https alone"))
        query = f"?{exchange.query}" if exchange.query else ""
        location = f"https://{host['name']}/{exchange.path.lstrip('/')}{query}"
        return web.Response(status=308, headers={"Location": location})


class Health:
    """`/healthz` and `/readyz` for everybody (the page shows them), `/metrics` for `readers`."""

    def __init__(self, upstreams: Upstreams, metrics: Metrics, readers: Networks) -> None:
        self.draining = False
        self._readers = readers
        self._upstreams = upstreams
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._known: dict[str, bool] = {}
        self._known_at = 0.0

    def pages(self) -> dict[str, Handler]:
        """Path -> what answers it."""
        return {"/healthz": self.healthz, "/readyz": self.readyz, "/metrics": self.metrics}

    async def healthz(self, exchange: Exchange) -> web.Response:
        """The process is alive."""
        return web.Response(text="ok\n")

    async def readyz(self, exchange: Exchange) -> web.Response:
        """It can serve: every service behind it is healthy (with several shards: of one of them),
        and it is not being stopped.
        """
        async with self._lock:
            # However often it is asked, the services are asked once a second.
            if time.monotonic() - self._known_at > _READY_CACHE_SECONDS:
                self._known = await self._upstreams.health()
                self._known_at = time.monotonic()
        ready = can_serve(self._known) and not self.draining
        body = {"ready": ready, "draining": self.draining, "services": self._known}
        return web.Response(
            status=200 if ready else 503,
            body=orjson.dumps(body),
            content_type="application/json",
        )

    async def metrics(self, exchange: Exchange) -> web.Response:
        """Prometheus text; how busy we are, and with what, is not everybody's business."""
        # A proxy that does not say for whom it asks may ask for anybody.
        nameless = exchange.https and "X-Forwarded-For" not in exchange.request.headers
        if nameless or exchange.client_ip not in self._readers:
            raise TranscodeError(NOT_FOUND, "there is nothing here", reason="NOT_FOUND")
        return web.Response(
            body=(await self._metrics.render()).encode(),
            headers={"Content-Type": metrics_module.CONTENT_TYPE},
        )


async def listen(server: Server, settings: Settings) -> tuple[web.ServerRunner, int]:
    """Start serving: (runner, port). Raises `SystemExit` with one line when the port is taken."""
    # Streams would go on for ever: after half of the time to drain they are cancelled.
    runner = web.ServerRunner(server, shutdown_timeout=settings.drain_seconds / 2)
    await runner.setup()
    shared = settings.gateway_processes > 1
    wanted = [(settings.http_host, settings.http_port, shared)]
    if shared:
        own = settings.gateway_ports()[settings.gateway_process]
        wanted.append((settings.internal_host, own, False))
    for host, port, reuse in wanted:
        # After a restart everybody comes back at once.
        site = web.TCPSite(runner, host, port, backlog=1024, reuse_port=reuse)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise SystemExit(
                f"gateway: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
    bound: int = runner.addresses[0][1]
    return runner, bound
