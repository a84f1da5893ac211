"""The whole service on real sockets, with a real engine writing the log."""

from __future__ import annotations

import asyncio
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from tidebook.engine.v1 import types_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.markets import default_markets
from kernel.reasons import Reason
from mesh.channel import cancelling
from mesh.log import LogReader, log_key
from mesh.postgres import open_pool, plain_url
from mesh.redis import open_redis
from mesh.status import refused_from
from mesh.telemetry import read_order_trace
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import Candle, CandleSource
from services.marketdata.domain.depth import checksum
from services.marketdata.domain.intervals import Interval
from services.marketdata.projection import Projection
from services.marketdata.retention import Retention
from services.marketdata.store import PostgresHistory, candle_row
from tests.engine.test_back_pressure import Progress, start_settlement
from tests.marketdata.rig import MarketDataRig, market_data_rig
from tests.support.engine import Trader
from tests.support.waiting import eventually

BTC = "BTC_USDC"


async def trade(maker: Trader, taker: Trader, price: str, quantity: str) -> None:
    """One trade at `price`, bought by the taker."""
    await maker.place(side="sell", price=price, quantity=quantity)
    await taker.place(side="buy", price=price, quantity=quantity)


async def next_of(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), 60)


async def test_a_book_stream_opens_with_a_snapshot_and_links_every_change(
    running: MarketDataRig,
) -> None:
    alice = await running.engine.funded(1)
    first = await alice.place(side="buy", price="100", quantity="2")
    request = pb.WatchBookRequest(markets=[BTC], depth=2, rate=pb.BOOK_RATE_RAW, checksum=True)
    await eventually(lambda: best_bid(running, "100"))
    async with cancelling(running.stub.WatchBook(request)) as call:
        snapshot = (await next_of(call)).books[0]
        assert snapshot.snapshot and snapshot.prev_seq == 0
        assert levels(snapshot.bids) == [("100", "2")]
        await alice.place(side="buy", price="101", quantity="1")
        delta = (await next_of(call)).books[0]
        assert not delta.snapshot and delta.prev_seq == snapshot.seq
        assert levels(delta.bids) == [("101", "1")]
        assert delta.checksum == checksum([("101", "1"), ("100", "2")], [])
        await alice.cancel(first.order.order_id)
        removal = (await next_of(call)).books[0]
        assert removal.prev_seq == delta.seq
        assert levels(removal.bids) == [("100", "0")]


async def best_bid(rig: MarketDataRig, price: str) -> bool:
    book = (await rig.stub.GetBook(pb.GetBookRequest(market=BTC))).book
    return bool(book.bids) and book.bids[0].price == price


def levels(side: Any) -> list[tuple[str, str]]:
    return [(level.price, level.quantity) for level in side]


async def test_an_order_book_stream_shows_orders_in_the_order_of_their_queues(
    running: MarketDataRig,
) -> None:
    alice = await running.engine.funded(1)
    for quantity in ("1", "2"):
        await alice.place(side="sell", price="110", quantity=quantity)
    await alice.place(side="sell", price="109", quantity="3")
    await eventually(lambda: best_ask(running, "109"))
    request = pb.WatchOrderBookRequest(markets=[BTC])
    async with cancelling(running.stub.WatchOrderBook(request)) as call:
        book = (await next_of(call)).books[0]
        assert [(o.price, o.quantity) for o in book.orders] == [
            ("109", "3"),
            ("110", "1"),
            ("110", "2"),
        ]


async def best_ask(rig: MarketDataRig, price: str) -> bool:
    book = (await rig.stub.GetBook(pb.GetBookRequest(market=BTC))).book
    return bool(book.asks) and book.asks[0].price == price


async def test_trades_are_streamed_listed_and_resumed_from_a_position(
    running: MarketDataRig,
) -> None:
    alice, bob = await running.engine.funded(1), await running.engine.funded(2)
    request = pb.WatchTradesRequest(markets=[BTC])
    async with cancelling(running.stub.WatchTrades(request)) as call:
        await call.wait_for_connection()
        await trade(alice, bob, "100", "1")
        seen = list((await next_of(call)).trades)
        assert [(t.trade_id, t.price, t.quantity) for t in seen] == [(1, "100", "1")]
        assert seen[0].taker_side == types_pb2.SIDE_BUY
    await trade(alice, bob, "101", "1")
    await trade(alice, bob, "102", "1")
    request = pb.WatchTradesRequest(markets=[BTC], resume_from_seq=seen[0].seq)
    async with cancelling(running.stub.WatchTrades(request)) as call:
        missed: list[pb.Trade] = []
        while len(missed) < 2:
            missed += (await next_of(call)).trades
        assert [t.trade_id for t in missed] == [2, 3]
    page = await running.stub.ListTrades(pb.ListTradesRequest(market=BTC, page_size=2))
    assert [t.trade_id for t in page.trades] == [3, 2]
    rest = await running.stub.ListTrades(
        pb.ListTradesRequest(market=BTC, page_size=2, page_token=page.next_page_token)
    )
    assert [t.trade_id for t in rest.trades] == [1]
    assert not rest.next_page_token


async def test_a_ticker_shows_the_day_the_best_prices_and_the_simulated_index(
    running: MarketDataRig,
) -> None:
    alice, bob = await running.engine.funded(1), await running.engine.funded(2)
    await trade(alice, bob, "100", "1")
    await trade(alice, bob, "110", "0.5")
    await alice.place(side="buy", price="99", quantity="3")

    async def shown() -> None:
        request = pb.GetTickerRequest(market=BTC)
        ticker = (await running.stub.GetTicker(request)).ticker
        assert (ticker.open, ticker.high, ticker.low, ticker.last) == ("100", "110", "100", "110")
        assert (ticker.volume, ticker.quote_volume, ticker.trades) == ("1.5", "155", 2)
        assert (ticker.change, ticker.change_bps) == ("10", 1000)
        assert (ticker.best_bid, ticker.best_bid_quantity, ticker.best_ask) == ("99", "3", "")
        assert ticker.index_price and ticker.simulated
        assert ticker.status == types_pb2.MARKET_STATUS_TRADING
        assert ticker.mark_price

    await eventually(shown)


async def test_index_mark_and_last_price_are_shown_with_what_they_are_made_of(
    running: MarketDataRig,
) -> None:
    alice, bob = await running.engine.funded(1), await running.engine.funded(2)
    await trade(alice, bob, "100", "1")

    async def prices() -> pb.MarketPrices:
        request = pb.GetMarketPricesRequest(market=BTC)
        return (await running.stub.GetMarketPrices(request)).prices

    async def without_a_middle() -> None:
        shown = await prices()
        (source,) = shown.index.inputs
        assert source.used and source.simulated and source.source == "synthetic"
        assert shown.index.price == source.price
        assert (shown.last_price, shown.mid_price, shown.last_trade.trade_id) == ("100", "", 1)
        index, mark = Decimal(shown.index_price), Decimal(shown.mark_price)
        assert 0 <= (index + 100) / 2 - mark < Decimal("0.01")

    await eventually(without_a_middle)
    await alice.place(side="buy", price="99.97", quantity="1")
    await bob.place(side="sell", price="100.02", quantity="1")

    async def with_all_three() -> None:
        shown = await prices()
        assert (shown.best_bid, shown.best_ask, shown.mid_price) == ("99.97", "100.02", "99.99")
        # The median of a far index, 99.99 and 100: the last trade.
        assert shown.mark_price == "100"

    await eventually(with_all_three)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.GetMarketPrices(pb.GetMarketPricesRequest(market="NONE"))
    assert refused_from(caught.value).reason is Reason.MARKET_NOT_FOUND


async def test_candles_have_no_hole_and_no_double_over_restarts(rig: MarketDataRig) -> None:
    await rig.engine.start()
    await rig.start()
    alice, bob = await rig.engine.funded(1), await rig.engine.funded(2)
    await trade(alice, bob, "100", "1")
    await rig.stop()
    await trade(alice, bob, "101", "1")
    await rig.spawn()
    await trade(alice, bob, "99", "1")
    await eventually(lambda: traded(rig, 3))
    # Whatever was not written yet is read from the log again.
    await rig.kill()
    await trade(alice, bob, "102", "1")
    await rig.start()
    await eventually(lambda: traded(rig, 4))
    for interval in (pb.CANDLE_INTERVAL_1S, pb.CANDLE_INTERVAL_1M, pb.CANDLE_INTERVAL_1D):
        request = pb.ListCandlesRequest(market=BTC, interval=interval)
        candles = (await rig.stub.ListCandles(request)).candles
        assert sum(candle.trades for candle in candles) == 4
        assert sum(Decimal(candle.volume) for candle in candles) == 4
        times = [candle.open_time.seconds for candle in candles]
        assert times == sorted(set(times), reverse=True)
        assert max(Decimal(candle.high) for candle in candles) == 102
        assert min(Decimal(candle.low) for candle in candles) == 99
        assert (candles[-1].open, candles[0].close) == ("100", "102")
        assert not any(candle.simulated for candle in candles)


async def test_what_the_log_has_forgotten_comes_from_the_archive(rig: MarketDataRig) -> None:
    await rig.engine.start()
    await rig.start()
    alice, bob = await rig.engine.funded(1), await rig.engine.funded(2)
    await trade(alice, bob, "100", "1")
    await eventually(lambda: traded(rig, 1))
    await rig.stop()
    for price in ("101", "99", "102"):
        await trade(alice, bob, price, "1")
    redis = open_redis(rig.settings)
    progress = Progress()
    progress.records = await LogReader(redis, rig.settings.shard).read(0, 10_000)
    progress.archived_seq = len(progress.records)
    settlement = await start_settlement(rig.engine, progress)
    try:
        last = f"{progress.archived_seq}-0"
        await redis.xtrim(log_key(rig.settings.shard), minid=last, approximate=False)
        await rig.start()
        await eventually(lambda: traded(rig, 4))
        await trade(alice, bob, "98", "1")
        await eventually(lambda: traded(rig, 5))
        request = pb.ListCandlesRequest(market=BTC, interval=pb.CANDLE_INTERVAL_1D)
        candles = (await rig.stub.ListCandles(request)).candles
        assert sum(candle.trades for candle in candles) == 5
    finally:
        await settlement.drain()
        await redis.aclose()


async def test_only_candles_of_one_second_are_ever_forgotten(rig: MarketDataRig) -> None:
    day = 86_400
    catalogue = Catalogue(default_markets(), Projection())
    made = [
        Candle(market, CandleSource.INDEX, interval, open_s, open_s + 1, 1, 1, 1, 1, closed=True)
        for market, newest_s in ((BTC, 40 * day), ("ETH_USDC", 5 * day))
        for interval in (Interval.S1, Interval.M1)
        for open_s in range(newest_s - 4 * day, newest_s + 1, day)
    ]
    async with await open_pool(rig.settings, "marketdata") as pool:
        store = PostgresHistory(pool, 0)
        await store.write([candle_row(candle, 0) for candle in made], [], None)
        retention = Retention(store, catalogue, keep_days=2)
        assert await retention.forget() == 2 * 2
        assert await retention.forget() == 0
        left = await store.candles(
            CandleSource.INDEX, BTC, Interval.S1, start_s=0, end_s=99 * day, limit=99
        )
        assert [candle.open_s // day for candle in left] == [40, 39, 38]
        minutes = await store.candles(
            CandleSource.INDEX, BTC, Interval.M1, start_s=0, end_s=99 * day, limit=99
        )
        assert len(minutes) == 5


async def traded(rig: MarketDataRig, count: int) -> bool:
    page = await rig.stub.ListTrades(pb.ListTradesRequest(market=BTC))
    return [t.trade_id for t in page.trades] == list(range(count, 0, -1))


async def test_a_candle_stream_closes_candles_by_the_clock(running: MarketDataRig) -> None:
    alice, bob = await running.engine.funded(1), await running.engine.funded(2)
    request = pb.WatchCandlesRequest(markets=[BTC], interval=pb.CANDLE_INTERVAL_1S)
    async with cancelling(running.stub.WatchCandles(request)) as call:
        await call.wait_for_connection()
        await trade(alice, bob, "100", "1")
        opened = (await next_of(call)).candles[0]
        assert (opened.close, opened.volume, opened.closed) == ("100", "1", False)
        closed = (await next_of(call)).candles[0]
        assert closed.closed and closed.open_time == opened.open_time


async def test_prices_come_before_the_engine_and_books_after_it(rig: MarketDataRig) -> None:
    await rig.start(wait=False)
    async with cancelling(rig.stub.WatchPrices(pb.WatchPricesRequest())) as call:
        price = (await next_of(call)).prices[0]
        assert price.simulated and price.source == pb.FEED_KIND_SYNTHETIC
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.stub.GetBook(pb.GetBookRequest(market=BTC))
    assert refused_from(refused.value).reason is Reason.UNAVAILABLE
    assert not await rig.is_serving()
    await rig.engine.start()
    await eventually(rig.is_serving)
    assert (await rig.stub.GetBook(pb.GetBookRequest(market=BTC))).book.snapshot


async def test_a_subscribe_stream_changes_its_set_while_it_runs(running: MarketDataRig) -> None:
    alice = await running.engine.funded(1)
    book = pb.WatchBookRequest(markets=[BTC], rate=pb.BOOK_RATE_RAW)
    async with cancelling(running.stub.Subscribe()) as call:
        await call.write(pb.SubscribeRequest(request_id=1, book=book))
        assert (await next_of(call)).acknowledged == 1
        assert (await next_of(call)).book.books[0].snapshot
        await call.write(pb.SubscribeRequest(request_id=2, book=book))
        assert (await next_of(call)).refused.error.reason == Reason.ALREADY_EXISTS
        unknown = pb.WatchTradesRequest(markets=["NO_SUCH"])
        await call.write(pb.SubscribeRequest(request_id=3, trades=unknown))
        refused = (await next_of(call)).refused
        assert (refused.request_id, refused.error.reason) == (3, Reason.MARKET_NOT_FOUND)
        await call.write(pb.SubscribeRequest(request_id=4, unsubscribe=True, book=book))
        assert (await next_of(call)).acknowledged == 4
        await alice.place(side="buy", price="100", quantity="2")
        tickers = pb.WatchTickersRequest(markets=[BTC])
        await call.write(pb.SubscribeRequest(request_id=5, tickers=tickers))
        assert (await next_of(call)).acknowledged == 5
        assert (await next_of(call)).tickers.tickers[0].market == BTC
        await call.done_writing()
        while (last := await next_of(call)) is not grpc.aio.EOF:
            assert last.WhichOneof("message") == "tickers"


async def test_a_bad_request_on_a_subscribe_stream_ends_it_with_its_reason(
    running: MarketDataRig,
) -> None:
    async with cancelling(running.stub.Subscribe()) as call:
        await call.write(pb.SubscribeRequest(request_id=1))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await next_of(call)
    assert refused_from(refused.value).reason is Reason.INVALID_ARGUMENT


async def test_a_drain_ends_streams_with_draining(running: MarketDataRig) -> None:
    calls = [
        running.stub.WatchPrices(pb.WatchPricesRequest()),
        running.stub.WatchBook(pb.WatchBookRequest(markets=[BTC])),
    ]
    subscribing = running.stub.Subscribe()
    trades = pb.WatchTradesRequest(markets=[BTC])
    await subscribing.write(pb.SubscribeRequest(request_id=1, trades=trades))
    for call in (*calls, subscribing):
        await next_of(call)
    stopping = asyncio.create_task(running.stop())
    for call in (*calls, subscribing):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            while True:
                await next_of(call)
        assert refused_from(refused.value).reason is Reason.DRAINING
    await stopping


async def test_every_traced_command_gets_a_publish_span(running: MarketDataRig) -> None:
    alice = await running.engine.funded(1)
    placed = await alice.place(side="buy", price="100", quantity="2")
    redis = open_redis(running.settings)

    async def published() -> None:
        _, spans = await read_order_trace(redis, placed.order.order_id)
        ours = [span for span in spans if span.name == "marketdata.publish"]
        assert len(ours) == 1
        assert ours[0].service == "marketdata"
        assert 0 < ours[0].start_ns <= ours[0].end_ns
        assert ours[0].parent_span_id in {span.span_id for span in spans if span not in ours}

    try:
        await eventually(published)
    finally:
        await redis.aclose()


async def test_requests_that_break_the_contract_are_refused(running: MarketDataRig) -> None:
    for request, reason in (
        (pb.GetBookRequest(market="NO_SUCH"), Reason.MARKET_NOT_FOUND),
        (pb.GetBookRequest(market=BTC, depth=1001), Reason.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.stub.GetBook(request)
        assert refused_from(refused.value).reason is reason
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.stub.ListTrades(pb.ListTradesRequest(market=BTC, page_token="x"))
    assert refused_from(refused.value).reason is Reason.INVALID_ARGUMENT


async def test_history_survives_a_store_that_is_away_for_a_while(running: MarketDataRig) -> None:
    alice, bob = await running.engine.funded(1), await running.engine.funded(2)
    admin = await asyncpg.connect(plain_url(running.settings.postgres_url or ""))
    try:
        await admin.execute("alter table marketdata.trades rename to gone")
        await trade(alice, bob, "100", "1")
        await eventually(lambda: traded(running, 1))
        await admin.execute("alter table marketdata.gone rename to trades")

        async def stored() -> bool:
            return bool(await admin.fetchval("select count(*) = 1 from marketdata.trades"))

        await eventually(stored)
    finally:
        await admin.close()


async def test_a_recording_gives_the_same_candles_however_often_it_is_played(
    short_dir: Path, valkey_url: str, postgres_url: str
) -> None:
    path = short_dir / "trades.csv.gz"
    rows = ["ts_us,symbol,price,qty,side", "60000000,BTCUSD,100.5,0.5,buy"]
    rows += ["61000000,BTCUSD,99,1.25,sell", "125000000,BTCUSD,101,1,buy"]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(rows))
    request = pb.ListCandlesRequest(market=BTC, source=pb.CANDLE_SOURCE_INDEX)
    async with market_data_rig(
        short_dir, valkey_url, postgres_url, feed=f"replay:{path}?speed=0"
    ) as rig:
        for _ in range(2):
            await rig.start(wait=False)

            async def ended() -> bool:
                feed = (await rig.stub.ListPrices(pb.ListPricesRequest())).feed
                return feed.simulated and "has ended" in feed.detail

            await eventually(ended)
            second, first = (await rig.stub.ListCandles(request)).candles
            assert (first.open_time.seconds, first.open, first.high) == (60, "100.5", "100.5")
            assert (first.low, first.close, first.volume) == ("99", "99", "1.75")
            assert (first.quote_volume, first.trades) == ("174", 2)
            assert first.closed and first.simulated
            assert (second.open_time.seconds, second.trades, second.closed) == (120, 1, False)
            await rig.stop()


async def test_without_a_network_the_default_feed_falls_back_and_says_so(
    short_dir: Path, valkey_url: str, postgres_url: str
) -> None:
    nowhere = "backpack?ws=ws://127.0.0.1:1&rest=http://127.0.0.1:1"
    async with market_data_rig(short_dir, valkey_url, postgres_url, feed=nowhere) as rig:
        await rig.start(wait=False)

        async def simulated() -> None:
            answer = await rig.stub.ListPrices(pb.ListPricesRequest())
            assert len(answer.prices) == len(default_markets())
            assert all(price.simulated for price in answer.prices)
            assert answer.feed.source == pb.FEED_KIND_SYNTHETIC and answer.feed.simulated
            assert "SIMULATED" in answer.feed.detail and "not reachable" in answer.feed.detail

        await eventually(simulated)
