"""Fan-out: bounded memory for every reader, conflation where it is allowed, an end where not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from tidebook.marketdata.v1 import marketdata_pb2 as pb
from tidebook.marketdata.v1 import marketdata_pb2_grpc as rpc

from kernel.markets import default_markets
from kernel.reasons import Reason, Refused
from mesh.server import ServiceHost
from mesh.status import refused_from
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.prices import FeedKind, PriceBoard, Quote, Source
from services.marketdata.hub import (
    KeyedSubscription,
    Mailbox,
    QueueSubscription,
    QueueTopic,
    Topic,
)
from services.marketdata.projection import Projection
from services.marketdata.servicer import MarketDataServicer
from services.marketdata.streams import PriceStreams
from tests.builders import make_settings

CATALOGUE = Catalogue(default_markets(), Projection())
MADE_UP = Source("synthetic", FeedKind.SYNTHETIC, simulated=True)


def candles(messages: Sequence[pb.Candle]) -> pb.WatchCandlesResponse:
    return pb.WatchCandlesResponse(candles=messages)


def trades(messages: Sequence[pb.Trade]) -> pb.WatchTradesResponse:
    return pb.WatchTradesResponse(trades=messages)


async def next_of(mailbox: Mailbox) -> Any:
    return await asyncio.wait_for(anext(mailbox), 60)


async def test_a_slow_reader_of_prices_skips_some_and_still_sees_a_chain() -> None:
    board = PriceBoard()
    streams = PriceStreams(board, CATALOGUE)
    mailbox = Mailbox()

    def move(market: str, price: int) -> None:
        quote = Quote(market, price, price, price)
        streams.publish(board.apply([quote], MADE_UP, price))

    move("BTC_USDC", 1)
    streams.open(mailbox, ["BTC_USDC"])
    (first,) = (await next_of(mailbox)).prices
    assert (first.seq, first.prev_seq) == (1, 0)
    for price in (2, 3, 4):
        move("BTC_USDC", price)
        move("ETH_USDC", price)
    (second,) = (await next_of(mailbox)).prices
    assert (second.seq, second.prev_seq, second.price) == (4, 1, "0.00000004")
    move("BTC_USDC", 5)
    (third,) = (await next_of(mailbox)).prices
    assert (third.seq, third.prev_seq) == (5, 4)


async def test_readers_share_a_message_and_cannot_change_it_for_each_other() -> None:
    board = PriceBoard()
    streams = PriceStreams(board, CATALOGUE)
    mailboxes = [Mailbox(), Mailbox()]
    streams.open(mailboxes[0], ["BTC_USDC"])
    streams.publish(board.apply([Quote("BTC_USDC", 1, 1, 1)], MADE_UP, 1))
    streams.open(mailboxes[1], ["BTC_USDC"])
    streams.publish(board.apply([Quote("BTC_USDC", 2, 2, 2)], MADE_UP, 2))
    for mailbox in mailboxes:
        (price,) = (await next_of(mailbox)).prices
        assert (price.seq, price.prev_seq) == (2, 0)


async def test_an_open_candle_is_conflated_but_no_finished_one_is_lost() -> None:
    topic: Topic[pb.Candle] = Topic()
    mailbox = Mailbox()
    KeyedSubscription(topic, mailbox, ["A"], candles, limit=3)
    for minute in range(3):
        for count in range(1, 50):
            topic.publish("A", minute, pb.Candle(market="A", trades=count))
    assert [candle.trades for candle in (await next_of(mailbox)).candles] == [49, 49, 49]
    for minute in range(4):
        topic.publish("A", minute, pb.Candle(market="A"))
    with pytest.raises(Refused) as refused:
        await next_of(mailbox)
    assert refused.value.reason is Reason.SLOW_READER


async def test_a_reader_of_trades_gets_every_one_or_an_end() -> None:
    topic: QueueTopic[pb.Trade] = QueueTopic()
    mailbox = Mailbox()
    QueueSubscription(topic, mailbox, ["A"], trades, limit=3)
    topic.publish([("A", pb.Trade(trade_id=1)), ("B", pb.Trade(trade_id=9))])
    topic.publish([("A", pb.Trade(trade_id=2)), ("A", pb.Trade(trade_id=3))])
    assert [t.trade_id for t in (await next_of(mailbox)).trades] == [1, 2, 3]
    for number in range(4, 8):
        topic.publish([("A", pb.Trade(trade_id=number))])
    with pytest.raises(Refused) as refused:
        await next_of(mailbox)
    assert refused.value.reason is Reason.SLOW_READER


async def test_a_closed_subscription_gets_nothing_more() -> None:
    topic: Topic[pb.Candle] = Topic()
    subscription = KeyedSubscription(topic, Mailbox(), [], candles)
    assert topic
    subscription.close()
    assert not topic


class TradesOnly:
    """Stands where the whole of market data would: one topic of trades and nothing else."""

    def __init__(self) -> None:
        self.topic: QueueTopic[pb.Trade] = QueueTopic()

    def watch_trades(self, request: pb.WatchTradesRequest, mailbox: Mailbox) -> Any:
        return QueueSubscription(self.topic, mailbox, request.markets, trades)


async def test_a_reader_that_stops_reading_is_ended_and_others_go_on(short_dir: Path) -> None:
    data: Any = TradesOnly()
    settings = make_settings(short_dir, marketdata_port=0)
    host = await ServiceHost.start(
        settings,
        service="marketdata",
        public=[(rpc.add_MarketDataServiceServicer_to_server, MarketDataServicer(data))],
    )
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{host.public_port}") as slow_channel,
            grpc.aio.insecure_channel(f"127.0.0.1:{host.public_port}") as channel,
        ):
            request = pb.WatchTradesRequest(markets=["A"])
            stuck = rpc.MarketDataServiceStub(slow_channel).WatchTrades(request)
            quick: Any = rpc.MarketDataServiceStub(channel).WatchTrades(request)
            await stuck.wait_for_connection()
            await quick.wait_for_connection()
            # Long prices fill the stuck reader's flow-control window soon.
            batch = [("A", pb.Trade(trade_id=1, price="1" * 2000)) for _ in range(100)]
            seen = 0
            for number in range(1, 301):
                data.topic.publish(batch)
                while seen < 100 * number:
                    seen += len((await asyncio.wait_for(quick.read(), 60)).trades)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                while True:
                    await asyncio.wait_for(stuck.read(), 60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused_from(refused.value).reason is Reason.SLOW_READER
            assert seen == 30_000
            quick.cancel()
    finally:
        await host.drain()
