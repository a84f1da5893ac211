"""The market data service: settings and wiring."""

from __future__ import annotations

import asyncio

from tidebook.engine.v1 import internal_pb2_grpc
from tidebook.marketdata.v1 import marketdata_pb2_grpc

from kernel.clock import SystemClock
from kernel.markets import default_markets
from mesh.aio import cancel_and_wait, supervise
from mesh.archive import ArchiveReader
from mesh.channel import open_channel
from mesh.config import Settings
from mesh.log import LogReader
from mesh.postgres import open_pool_or_exit
from mesh.redis import open_redis
from mesh.server import ServiceHost, run_service
from mesh.telemetry import SpanRecorder
from services.marketdata.book_streams import BookStreams
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import CandleSource
from services.marketdata.domain.prices import FeedKind, PriceBoard
from services.marketdata.feeds.choose import make_feeds
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.follower import LogFollower
from services.marketdata.history import History
from services.marketdata.price_sender import PriceSender
from services.marketdata.projection import Projection
from services.marketdata.publisher import Publisher
from services.marketdata.retention import Retention
from services.marketdata.service import MarketData
from services.marketdata.servicer import MarketDataServicer
from services.marketdata.store import PostgresHistory
from services.marketdata.streams import CandleStreams, PriceStreams, TickerStreams, TradeStreams

SERVICE = "marketdata"


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then drain. Raises `SystemExit` with one line for a wrong setting."""
    clock = SystemClock()
    markets = default_markets()
    try:
        feeds = make_feeds(settings.feed, markets, clock)
        redis = open_redis(settings)
    except ValueError as error:
        raise SystemExit(f"{SERVICE}: {error}") from None
    pool = await open_pool_or_exit(settings, SERVICE, stateless=True)
    store = PostgresHistory(pool, settings.shard)
    spans = SpanRecorder(SERVICE, redis, settings)
    channel = open_channel(
        settings, "engine", caller=SERVICE, address=settings.address_of("engine", settings.shard)
    )
    settlement = open_channel(settings, "settlement", caller=SERVICE)
    board = PriceBoard()
    projection = Projection()
    catalogue = Catalogue(markets, projection)
    history = History(store)
    publisher = Publisher(
        catalogue,
        history,
        prices=PriceStreams(board, catalogue),
        tickers=TickerStreams(projection, board, clock),
        books=BookStreams(projection),
        trades=TradeStreams(projection),
        candles=CandleStreams(catalogue),
    )
    desk = FeedDesk(
        feeds,
        board,
        publisher,
        clock,
        fallback_markets=(
            markets if settings.feed_fallback and not any(f.simulated for f in feeds) else ()
        ),
        stale_ms=settings.price_stale_ms,
    )
    engine = internal_pb2_grpc.EngineInternalServiceStub(channel)
    own_markets = settings.shard_map.markets_of(settings.shard, markets)
    sender = PriceSender(engine, board, own_markets, interval_ms=settings.price_interval_ms)
    follower = LogFollower(
        engine,
        LogReader(redis, settings.shard),
        ArchiveReader(settlement, settings.shard),
        store,
        history,
        projection,
        publisher,
        spans,
        clock,
    )
    # A recording begins anew with every start, and its candles with it.
    if all(feed.kind is not FeedKind.REPLAY for feed in feeds):
        catalogue.restore_index(await store.newest_candles(CandleSource.INDEX))
    servicer = MarketDataServicer(MarketData(catalogue, projection, desk, history, publisher))
    registration = (marketdata_pb2_grpc.add_MarketDataServiceServicer_to_server, servicer)
    host = await ServiceHost.start(settings, service=SERVICE, public=[registration])
    await host.set_serving(False)
    writing = supervise(history.run(), "history writer")
    retention = Retention(store, catalogue, keep_days=settings.candles_1s_days)
    working = [
        supervise(desk.run(), "feed desk"),
        supervise(sender.run(), "price sender"),
        supervise(follower.run(), "log follower"),
        supervise(retention.run(), "retention"),
        supervise(publisher.books.run(), "book views"),
        supervise(publisher.tickers.run(), "tickers"),
        supervise(_serve_when_ready(host, follower), "readiness"),
    ]
    try:
        await stop.wait()
    finally:
        await host.drain()
        await cancel_and_wait(*working)
        # Last, so that it writes what the others still added.
        await cancel_and_wait(writing)
        await spans.close()
        await channel.close()
        await settlement.close()
        await pool.close()
        await redis.aclose()


async def _serve_when_ready(host: ServiceHost, follower: LogFollower) -> None:
    await follower.ready.wait()
    await host.set_serving(True)


def main() -> None:
    """Entry point of `tidebook serve marketdata`."""
    run_service(run, SERVICE)


if __name__ == "__main__":
    main()
