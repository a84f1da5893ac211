"""The engine process: settings and wiring, nothing else."""

from __future__ import annotations

import asyncio

import structlog
from tidebook.engine.v1 import internal_pb2_grpc, market_pb2_grpc, order_pb2_grpc, position_pb2_grpc

from kernel.clock import SystemClock
from mesh.aio import cancel_and_wait, supervise
from mesh.channel import open_channel
from mesh.config import ENGINE_READS, Settings
from mesh.garbage import collect_rarely
from mesh.redis import open_redis
from mesh.revocation import EndedSessions
from mesh.server import ServiceHost, run_service
from mesh.telemetry import SpanRecorder
from mesh.tokens import TokenVerifier, signing_keys_from
from services.engine import compiled
from services.engine.archive import Archive
from services.engine.service import Engine
from services.engine.servicer import OrderServicer
from services.engine.servicer_internal import InternalServicer
from services.engine.servicer_market import MarketServicer
from services.engine.servicer_position import PositionServicer

SERVICE = "engine"
# One bad command must not spoil the others of its message, let alone its stream: the codec checks
# each by hand, which also is a tenth of the cost.
CHECKED_BY_HANDLER = frozenset(
    {
        "/tidebook.engine.v1.OrderService/BatchOrders",
        "/tidebook.engine.v1.OrderService/TradeStream",
        "/tidebook.engine.v1.EngineInternalService/SubmitCommands",
    }
)

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain. Listens at once, is healthy once it leads."""
    log.info("engine_core", compiled=compiled.is_compiled())
    redis = open_redis(settings)
    auth = open_channel(settings, "auth", caller=SERVICE)
    settlement = open_channel(settings, "settlement", caller=SERVICE)
    ended = EndedSessions(redis)
    following = supervise(ended.run(), "ended sessions")
    verifier = TokenVerifier(signing_keys_from(auth), ended=ended)
    recorder = SpanRecorder(SERVICE, redis, settings)
    archive = Archive(settlement, settings.shard)
    engine = Engine(settings, redis, recorder, SystemClock(), archive=archive)
    # Listening before recovery: a second engine by mistake must fail on the port, not fence the
    # first one off its log.
    host = await ServiceHost.start(
        settings,
        service=SERVICE,
        public=[
            (market_pb2_grpc.add_MarketServiceServicer_to_server, MarketServicer(engine)),
            (order_pb2_grpc.add_OrderServiceServicer_to_server, OrderServicer(engine)),
            (position_pb2_grpc.add_PositionServiceServicer_to_server, PositionServicer(engine)),
        ],
        internal=[
            (
                internal_pb2_grpc.add_EngineInternalServiceServicer_to_server,
                InternalServicer(engine, verifier),
            ),
        ],
        verifier=verifier,
        checked_by_handler=CHECKED_BY_HANDLER,
        serving=False,
    )
    starting = None
    try:
        starting = supervise(_recover(engine, host), "recovery")
        await stop.wait()
    finally:
        await cancel_and_wait(starting)
        await host.drain()
        await cancel_and_wait(following)
        await engine.close(settings.drain_seconds)
        await recorder.close()
        await settlement.close()
        await auth.close()
        await redis.aclose()


async def _recover(engine: Engine, host: ServiceHost) -> None:
    await engine.recover()
    # Orders live long and make no cycles: looking through all of them every 700 new objects, as the
    # defaults would, costs an eighth of the throughput.
    collect_rarely()
    await host.set_serving(True, ENGINE_READS)
    await engine.lead()
    await host.set_serving(True)


def main() -> None:
    """`tidebook serve engine`."""
    run_service(run, SERVICE)


if __name__ == "__main__":
    main()
