"""What market data can be asked."""

from __future__ import annotations

from collections.abc import Sequence

from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.markets import Market
from kernel.reasons import Reason, Refused
from services.marketdata import codec
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.hub import Mailbox, Subscription
from services.marketdata.streams import PriceStreams


class MarketData:
    """Every question and every stream, over the parts that know the answers."""

    def __init__(self, markets: Sequence[Market], desk: FeedDesk, prices: PriceStreams) -> None:
        self._names = frozenset(market.name for market in markets)
        self._desk = desk
        self._prices = prices

    def list_prices(self, request: pb.ListPricesRequest) -> pb.ListPricesResponse:
        """The external prices now."""
        self._check(request.markets)
        wanted = frozenset(request.markets)
        return pb.ListPricesResponse(
            prices=[
                codec.price_to_proto(price, 0)
                for price in self._desk.board
                if not wanted or price.market in wanted
            ],
            feed=codec.feed_to_proto(self._desk.status()),
        )

    def watch_prices(self, request: pb.WatchPricesRequest, mailbox: Mailbox) -> Subscription:
        """The external prices, as they change."""
        self._check(request.markets)
        return self._prices.open(mailbox, self._desk, request.markets)

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._names:
                raise Refused(Reason.MARKET_NOT_FOUND, f"there is no market {name}", field="market")
