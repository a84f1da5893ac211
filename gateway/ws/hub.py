"""Shared streams: one to the market data service per topic, however many clients listen."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import structlog
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb
from tidebook.marketdata.v1 import marketdata_pb2_grpc

from gateway.ws.frames import Frame, data_frame
from gateway.ws.pictures import Book, Candles, Picture, Prices, Tickers, Trades
from kernel.reasons import Reason, Refused
from mesh.aio import Backoff
from mesh.channel import cancelling
from mesh.status import refused_from, status_for

_DEFAULT_DEPTH = 50
# Asking again would give the same answer.
_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_NEEDS_MARKETS = frozenset(
    {gateway_pb2.CHANNEL_BOOK, gateway_pb2.CHANNEL_TRADES, gateway_pb2.CHANNEL_CANDLES}
)
_PAYLOADS = {
    gateway_pb2.CHANNEL_PRICES: "prices",
    gateway_pb2.CHANNEL_TICKER: "ticker",
    gateway_pb2.CHANNEL_BOOK: "book",
    gateway_pb2.CHANNEL_TRADES: "trades",
    gateway_pb2.CHANNEL_CANDLES: "candles",
}
_CONFLATED = frozenset(
    {gateway_pb2.CHANNEL_PRICES, gateway_pb2.CHANNEL_TICKER, gateway_pb2.CHANNEL_BOOK}
)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TopicKey:
    """What is listened to; parameters that a channel does not have are 0. No market means all."""

    channel: int
    market: str
    depth: int = 0
    rate: int = 0
    interval: int = 0
    source: int = 0


class Listener(Protocol):
    """A client of the hub."""

    def take(self, topic: Topic, frame: Frame) -> None:
        """A frame of a topic that it listens to."""
        ...

    def topic_failed(self, key: TopicKey, refused: Refused) -> None:
        """The topic cannot be had; it is not listened to any more."""
        ...


def keys_of(subscription: gateway_pb2.Subscription) -> list[TopicKey]:
    """The topics that a subscription means, one a market; raises `Refused(INVALID_ARGUMENT)`."""
    channel = subscription.channel
    if channel in _NEEDS_MARKETS and not subscription.markets:
        raise Refused(Reason.INVALID_ARGUMENT, "name at least one market", field="markets")
    depth = rate = interval = source = 0
    # Defaults are filled in, so that asking for them or not is the same topic.
    if channel == gateway_pb2.CHANNEL_BOOK:
        depth = subscription.depth or _DEFAULT_DEPTH
        rate = subscription.rate or pb.BOOK_RATE_100MS
    elif channel == gateway_pb2.CHANNEL_CANDLES:
        interval = subscription.interval or pb.CANDLE_INTERVAL_1M
        source = subscription.source or pb.CANDLE_SOURCE_CLOB
    return [
        TopicKey(channel, market, depth, rate, interval, source)
        for market in dict.fromkeys(subscription.markets or ("",))
    ]


class Hub:
    """All topics somebody listens to."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = marketdata_pb2_grpc.MarketDataServiceStub(channel)
        self._topics: dict[TopicKey, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def listen(self, key: TopicKey, listener: Listener) -> Topic:
        """Begin to listen; the listener gets a snapshot at once if the topic has one."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(self, self._stub, key)
        topic.listeners[listener] = None
        frame = topic.snapshot_frame()
        if frame is not None:
            listener.take(topic, frame)
        return topic

    def leave(self, key: TopicKey, listener: Listener) -> None:
        """Stop listening; the last one to leave ends the stream."""
        topic = self._topics.get(key)
        if topic is None:
            return
        topic.listeners.pop(listener, None)
        if not topic.listeners:
            self.drop(topic)

    def drop(self, topic: Topic) -> None:
        """End a topic's stream."""
        self._topics.pop(topic.key, None)
        topic.end()

    async def close(self) -> None:
        """End all streams."""
        for topic in list(self._topics.values()):
            self.drop(topic)


class Topic:
    """One stream of the market data service, and who listens to it."""

    def __init__(
        self, hub: Hub, stub: marketdata_pb2_grpc.MarketDataServiceAsyncStub, key: TopicKey
    ) -> None:
        self.key = key
        self.listeners: dict[Listener, None] = {}
        self._hub = hub
        self._stub = stub
        self._payload = _PAYLOADS[gateway_pb2.Channel.ValueType(key.channel)]
        self._picture = _picture_of(key)
        self._snapshot: Frame | None = None
        # The stream is everybody's: it must not carry the trace or token of its first listener.
        self._task = asyncio.create_task(
            self._run(), name=f"topic {self._payload}", context=contextvars.Context()
        )

    @property
    def conflated(self) -> bool:
        """Whether a snapshot can stand for frames that were dropped."""
        return self.key.channel in _CONFLATED

    def snapshot_frame(self) -> Frame | None:
        """The topic as it is now; deltas after it have its seq as their prev_seq."""
        if self._snapshot is None:
            message = self._picture.snapshot()
            self._snapshot = None if message is None else data_frame(self._payload, message)
        return self._snapshot

    def end(self) -> None:
        """Stop the stream."""
        self._task.cancel()

    async def _run(self) -> None:
        backoff = Backoff(first_seconds=0.2, most_seconds=5.0)
        while True:
            try:
                async with cancelling(self._open()) as call:
                    while (message := await call.read()) is not grpc.aio.EOF:
                        backoff.reset()
                        self._publish(message)
            except grpc.RpcError as error:
                refused = refused_from(error)
                if refused.reason is Reason.SEQUENCE_TOO_OLD and isinstance(self._picture, Trades):
                    self._picture.last_seq = 0
                elif status_for(refused.reason) in _FINAL:
                    self._fail(refused)
                    return
                else:
                    log.warning("topic_lost", channel=self._payload, reason=refused.reason.name)
            await backoff.wait()

    def _publish(self, message: Any) -> None:
        self._picture.apply(message)
        self._snapshot = None
        frame = data_frame(self._payload, message)
        for listener in tuple(self.listeners):
            listener.take(self, frame)

    def _fail(self, refused: Refused) -> None:
        self._hub.drop(self)
        for listener in tuple(self.listeners):
            listener.topic_failed(self.key, refused)

    def _open(self) -> Any:
        key = self.key
        markets = [key.market] if key.market else []
        channel = key.channel
        if channel == gateway_pb2.CHANNEL_PRICES:
            return self._stub.WatchPrices(pb.WatchPricesRequest(markets=markets))
        if channel == gateway_pb2.CHANNEL_TICKER:
            return self._stub.WatchTickers(pb.WatchTickersRequest(markets=markets))
        if channel == gateway_pb2.CHANNEL_BOOK:
            return self._stub.WatchBook(
                pb.WatchBookRequest(
                    markets=markets,
                    depth=key.depth,
                    rate=pb.BookRate.ValueType(key.rate),
                )
            )
        if channel == gateway_pb2.CHANNEL_TRADES:
            assert isinstance(self._picture, Trades)
            return self._stub.WatchTrades(
                pb.WatchTradesRequest(markets=markets, resume_from_seq=self._picture.last_seq)
            )
        return self._stub.WatchCandles(
            pb.WatchCandlesRequest(
                markets=markets,
                interval=pb.CandleInterval.ValueType(key.interval),
                source=pb.CandleSource.ValueType(key.source),
            )
        )


def _picture_of(key: TopicKey) -> Picture:
    if key.channel == gateway_pb2.CHANNEL_BOOK:
        return Book(key.depth)
    kinds: dict[int, type[Prices | Tickers | Trades | Candles]] = {
        gateway_pb2.CHANNEL_PRICES: Prices,
        gateway_pb2.CHANNEL_TICKER: Tickers,
        gateway_pb2.CHANNEL_TRADES: Trades,
        gateway_pb2.CHANNEL_CANDLES: Candles,
    }
    return kinds[key.channel]()
