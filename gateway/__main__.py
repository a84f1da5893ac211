"""The gateway: settings and wiring, the only place that builds things."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import grpc
import structlog
from tidebook.engine.v1 import order_pb2_grpc
from tidebook.gateway.v1 import gateway_pb2_grpc

from gateway.api import Api
from gateway.app import App, Health, listen
from gateway.books_metrics import BooksMetrics
from gateway.callers import Callers
from gateway.connections import ConnectionLimits, Server
from gateway.door import Door
from gateway.exchange import Networks, ProxyRules
from gateway.express.lane import Express
from gateway.limits import RateLimiter
from gateway.local import DevServicer, LocalServices, TraceServicer
from gateway.metrics import Metrics
from gateway.openapi.document import build_document, load_comments
from gateway.openapi.pages import openapi_pages
from gateway.order_line import OrderLines
from gateway.previous_sessions import PreviousSessions
from gateway.requests import Requests
from gateway.services import ALL_SERVICES, UPSTREAM_SERVICES
from gateway.shards.channel import ShardedChannel
from gateway.site import Site
from gateway.transcode import Router, build_routes
from gateway.upstream import Upstreams
from gateway.web_security import Origins
from gateway.ws.connection import Surroundings, limits_of
from gateway.ws.descriptors import room_for
from gateway.ws.endpoint import WebSockets
from gateway.ws.frames import FrameReader
from gateway.ws.hub import Hub
from mesh.aio import cancel_and_wait, supervise
from mesh.channel import open_channel
from mesh.config import SHARDED_SERVICES, Settings
from mesh.garbage import collect_rarely
from mesh.interceptors import is_public
from mesh.redis import open_redis
from mesh.revocation import EndedSessions
from mesh.server import ServiceHost, run_service
from mesh.telemetry import SpanRecorder
from mesh.tokens import TokenVerifier, signing_keys_from

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP, WebSocket and the gRPC door until `stop` is set, then drain."""
    async with contextlib.AsyncExitStack() as resources:
        redis = open_redis(settings)
        resources.push_async_callback(redis.aclose)
        recorder = SpanRecorder("gateway", redis, settings)
        resources.push_async_callback(recorder.close)
        channels = {name: _channel(settings, name) for name in UPSTREAM_SERVICES}
        upstreams = Upstreams(settings, channels)
        resources.push_async_callback(upstreams.close)
        http = await resources.enter_async_context(aiohttp.ClientSession())

        metrics = Metrics()
        ended = EndedSessions(redis)
        following = supervise(ended.run(), "ended sessions")
        resources.push_async_callback(cancel_and_wait, following)
        verifier = TokenVerifier(signing_keys_from(channels["auth"]), ended=ended)
        origins = Origins(settings.cors_origins)
        try:
            callers = Callers(settings, verifier, RateLimiter(redis), metrics)
            proxies = ProxyRules(settings.trusted_proxies)
            readers = Networks(settings.metrics_from)
        except ValueError as error:
            raise SystemExit(f"gateway: {error}") from None
        if settings.why_unreachable:
            raise SystemExit(f"gateway: {settings.why_unreachable}")
        trace, dev = TraceServicer(redis), DevServicer(settings, http)
        router = Router(build_routes(ALL_SERVICES))
        lines = OrderLines(channels["engine"])
        previous = PreviousSessions(channels["auth"])
        resources.push_async_callback(lines.close)
        api = Api(router, upstreams, LocalServices(trace, dev), callers, lines, previous)
        door = Door(upstreams, callers, recorder)
        hub = Hub(channels["marketdata"])
        resources.push_async_callback(hub.close)
        orders = order_pb2_grpc.OrderServiceStub(channels["engine"])
        around = Surroundings(
            hub, orders, callers, recorder, metrics, FrameReader(), limits_of(settings)
        )
        room = room_for(settings.http_max_connections)
        sockets = WebSockets(
            around, origins, min(settings.ws_max_connections, room), settings.connections_per_ip
        )
        sockets.describe(metrics)
        health = Health(upstreams, metrics, readers)
        document = build_document(router.routes, ALL_SERVICES, load_comments(), is_public=is_public)
        requests = Requests(metrics, recorder)
        express = Express(router, callers, lines, requests, upstreams.max_seconds)
        app = App(
            api=api,
            site=Site(settings.web_dir),
            origins=origins,
            proxies=proxies,
            https_required=settings.https_required,
            requests=requests,
            express=express,
            pages=health.pages() | openapi_pages(document) | {"/ws": sockets.handle},
        )
        limits = ConnectionLimits.of(settings, room)
        server = Server(app, limits, metrics, proxies.is_trusted, express)
        gauge = metrics.gauge
        gauge("tidebook_http_connections", "Connections, WebSockets among them", server.__len__)
        gauge("tidebook_http_connections_max", "Connections it takes", lambda: room)
        gauge("tidebook_http_requests_open", "Requests under way", lambda: requests.open)
        metrics.counter(
            "tidebook_http_express_total",
            "Requests answered by the express lane",
            lambda: express.served,
        )
        gauge("tidebook_http_streams_open", "Streams over HTTP", lambda: api.streams_open)
        gauge("tidebook_ws_topics", "Shared streams of the WebSockets", lambda: len(hub))
        gauge("tidebook_door_calls_open", "Calls in the door", lambda: door.calls_open)
        metrics.add_source(BooksMetrics(channels["settlement"]))

        host = await ServiceHost.start(
            settings,
            service="gateway",
            public=[
                *door.registrations(),
                (gateway_pb2_grpc.add_TraceServiceServicer_to_server, trace),
                (gateway_pb2_grpc.add_DevServiceServicer_to_server, dev),
            ],
            verifier=verifier,
        )
        resources.push_async_callback(host.drain)
        await host.set_serving(True)
        runner, port = await listen(server, settings)
        resources.push_async_callback(runner.cleanup)
        resources.push_async_callback(sockets.drain)
        # What a request makes ends with it: with the defaults, looking through it costs a tenth of
        # the requests.
        collect_rarely(20_000)
        log.info("gateway_listens", http_port=port, grpc_port=host.public_port)
        await stop.wait()
        # What was opened last is closed first: WebSockets, HTTP, the door, then what they stand on.
        health.draining = True


def _channel(settings: Settings, name: str) -> grpc.aio.Channel:
    """A channel to a service, or to each shard's."""
    shards = settings.shard_map
    if name not in SHARDED_SERVICES or len(shards) == 1:
        return open_channel(settings, name, caller="gateway")
    channels = {
        shard: open_channel(
            settings, name, caller="gateway", address=settings.address_of(name, shard)
        )
        for shard in shards.numbers
    }
    return ShardedChannel(channels, shards)


def main() -> None:
    """`tidebook serve gateway`."""
    run_service(run, "gateway")


if __name__ == "__main__":
    main()
