"""The streams: what each kind of subscription opens with, and how its responses are made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tidebook.marketdata.v1 import marketdata_pb2 as pb

from services.marketdata import codec
from services.marketdata.domain.prices import ExternalPrice
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.hub import KeyedSubscription, Mailbox, Subscription, Topic


class PriceStreams:
    """External prices to their readers."""

    def __init__(self) -> None:
        self._topic: Topic[pb.Price] = Topic()

    def publish(self, prices: Sequence[ExternalPrice]) -> None:
        """These prices changed."""
        if self._topic:
            for price in prices:
                message = codec.price_to_proto(price, price.seq - 1)
                self._topic.publish(price.market, price.market, message)

    def open(self, mailbox: Mailbox, desk: FeedDesk, markets: Collection[str]) -> Subscription:
        """The prices of `markets` (empty: all) now, then each change."""
        first = [
            (price.market, codec.price_to_proto(price, 0))
            for price in desk.board
            if not markets or price.market in markets
        ]
        return KeyedSubscription(self._topic, mailbox, markets, _PriceChain().respond, first=first)


class _PriceChain:
    """Links one stream's prices by `prev_seq`, across those that a slow reader skipped."""

    def __init__(self) -> None:
        self._last_seq: dict[str, int] = {}

    def respond(self, prices: Sequence[pb.Price]) -> pb.WatchPricesResponse:
        response = pb.WatchPricesResponse(prices=prices)
        for price in response.prices:
            # `response` holds copies: the messages themselves belong to all readers.
            price.prev_seq = self._last_seq.get(price.market, 0)
            self._last_seq[price.market] = price.seq
        return response
