"""The market data service: settings and wiring."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidebook.marketdata.v1 import marketdata_pb2_grpc as rpc

from kernel.clock import SystemClock
from kernel.markets import default_markets
from mesh.aio import cancel_and_wait, supervise
from mesh.config import Settings
from mesh.server import ServiceHost, run_service
from services.marketdata.domain.prices import ExternalPrice, FeedKind, FeedTrade
from services.marketdata.feeds.choose import make_feed
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.feeds.port import Feed
from services.marketdata.service import MarketData
from services.marketdata.servicer import MarketDataServicer
from services.marketdata.streams import PriceStreams


class Publisher:
    """Hands external prices on."""

    def __init__(self, prices: PriceStreams) -> None:
        self._prices = prices

    def on_prices(self, prices: Sequence[ExternalPrice]) -> None:
        self._prices.publish(prices)

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        pass


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`."""
    clock = SystemClock()
    markets = default_markets()
    try:
        feed = make_feed(settings.feed, markets, clock)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    prices = PriceStreams()
    desk = FeedDesk(
        feed,
        Publisher(prices),
        clock,
        fallback_markets=markets
        if settings.feed_fallback and feed.kind is FeedKind.BACKPACK
        else (),
        stale_ms=settings.price_stale_ms,
    )
    servicer = MarketDataServicer(MarketData(markets, desk, prices))
    registration = (rpc.add_MarketDataServiceServicer_to_server, servicer)
    host = await ServiceHost.start(settings, service="marketdata", public=[registration])
    feeding = supervise(desk.run(), "feed desk")
    await stop.wait()
    await host.drain()
    await cancel_and_wait(feeding)


def main() -> None:
    """Entry point of `tidebook serve marketdata`."""
    run_service(run, "marketdata")


if __name__ == "__main__":
    main()
