"""What market data can be asked: every question and every stream."""

from __future__ import annotations

from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.clock import NS_PER_SECOND
from kernel.money import ceil_div
from kernel.reasons import Reason, Refused
from services.marketdata import codec
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.trades import PublicTrade
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.history import History
from services.marketdata.hub import Mailbox, Subscription
from services.marketdata.projection import Projection
from services.marketdata.publisher import Publisher

DEFAULT_DEPTH = 50
DEFAULT_PAGE = 100
_FOREVER = (1 << 63) - 1


class MarketData:
    """Answers from memory where it can, from history where it must."""

    def __init__(
        self,
        catalogue: Catalogue,
        projection: Projection,
        desk: FeedDesk,
        history: History,
        publisher: Publisher,
    ) -> None:
        self._catalogue = catalogue
        self._projection = projection
        self._desk = desk
        self._history = history
        self._streams = publisher

    # Questions.

    def list_prices(self, request: pb.ListPricesRequest) -> pb.ListPricesResponse:
        """The external prices now."""
        self._catalogue.check_feed(request.markets)
        wanted = frozenset(request.markets)
        return pb.ListPricesResponse(
            prices=[
                codec.price_with_inputs(market.name, price)
                for price in self._desk.board
                for market in self._catalogue.of_pair(price.pair)
                if not wanted or market.name in wanted
            ],
            feed=codec.feed_to_proto(self._desk.status()),
            sources=map(codec.feed_to_proto, self._desk.statuses()),
        )

    def get_market_prices(self, request: pb.GetMarketPricesRequest) -> pb.GetMarketPricesResponse:
        """A market's index, mark and last price, and what they are made of."""
        state = self._catalogue.state(request.market)
        return pb.GetMarketPricesResponse(prices=self._streams.tickers.market_prices(state))

    def list_tickers(self, request: pb.ListTickersRequest) -> pb.ListTickersResponse:
        """Tickers of the named markets, or of all."""
        states = self._catalogue.states(request.markets, all_if_none=True)
        return pb.ListTickersResponse(tickers=[self._streams.tickers.ticker(s) for s in states])

    def get_ticker(self, request: pb.GetTickerRequest) -> pb.GetTickerResponse:
        """One ticker."""
        state = self._catalogue.state(request.market)
        return pb.GetTickerResponse(ticker=self._streams.tickers.ticker(state))

    def get_book(self, request: pb.GetBookRequest) -> pb.GetBookResponse:
        """A book as it is at the newest log position."""
        state = self._catalogue.state(request.market)
        depth = request.depth or DEFAULT_DEPTH
        book = codec.book_to_proto(
            state.market,
            state.book.bids.top(depth),
            state.book.asks.top(depth),
            self._projection.book_time_ns,
        )
        book.seq = self._projection.book_seq
        book.snapshot = True
        return pb.GetBookResponse(book=book)

    async def list_trades(self, request: pb.ListTradesRequest) -> pb.ListTradesResponse:
        """Trades, newest first."""
        state = self._catalogue.state(request.market)
        size = request.page_size or DEFAULT_PAGE
        before = _page(request.page_token) or _FOREVER
        # One more than asked for tells whether there is a next page.
        found = state.trades.newest(size + 1, before)
        if found is None:
            found = await self._history.list_trades(
                request.market, before_trade_id=before, limit=size + 1
            )
        page = found[:size]
        return pb.ListTradesResponse(
            trades=[codec.trade_to_proto(state.market, trade) for trade in page],
            next_page_token=str(page[-1].trade_id) if len(found) > size else "",
        )

    async def list_candles(self, request: pb.ListCandlesRequest) -> pb.ListCandlesResponse:
        """Candles, newest first."""
        source, interval = _candle_kind(request.source, request.interval)
        market = self._catalogue.market(request.market)
        size = request.page_size or DEFAULT_PAGE
        end_s = _FOREVER
        if request.HasField("end_time"):
            end_s = ceil_div(codec.nanoseconds(request.end_time), NS_PER_SECOND)
        if page := _page(request.page_token):
            end_s = min(end_s, page)
        found = await self._history.list_candles(
            source,
            market.pair if source is CandleSource.INDEX else market.name,
            interval,
            start_s=ceil_div(codec.nanoseconds(request.start_time), NS_PER_SECOND),
            end_s=end_s,
            limit=size + 1,
        )
        page_of = found[:size]
        return pb.ListCandlesResponse(
            candles=[codec.candle_to_proto(market, candle) for candle in page_of],
            next_page_token=str(page_of[-1].open_s) if len(found) > size else "",
        )

    # Streams.

    def watch_prices(self, request: pb.WatchPricesRequest, mailbox: Mailbox) -> Subscription:
        """The external prices, as they change."""
        self._catalogue.check_feed(request.markets)
        return self._streams.prices.open(mailbox, request.markets)

    def watch_tickers(self, request: pb.WatchTickersRequest, mailbox: Mailbox) -> Subscription:
        """Tickers, as they change."""
        states = self._catalogue.states(request.markets, all_if_none=True)
        return self._streams.tickers.open(mailbox, states)

    def watch_book(self, request: pb.WatchBookRequest, mailbox: Mailbox) -> Subscription:
        """The best levels of books."""
        return self._streams.books.open_levels(
            mailbox,
            self._catalogue.states(request.markets),
            depth=request.depth or DEFAULT_DEPTH,
            rate=request.rate,
            checksum=request.checksum,
        )

    def watch_order_book(self, request: pb.WatchOrderBookRequest, mailbox: Mailbox) -> Subscription:
        """Books order by order."""
        states = self._catalogue.states(request.markets)
        return self._streams.books.open_orders(mailbox, states)

    def watch_trades(self, request: pb.WatchTradesRequest, mailbox: Mailbox) -> Subscription:
        """Trades, from a log position on or from now on."""
        states = self._catalogue.states(request.markets)
        missed: list[PublicTrade] = []
        if request.resume_from_seq:
            for state in states:
                trades = state.trades.after(request.resume_from_seq)
                if trades is None:
                    raise Refused(
                        Reason.SEQUENCE_TOO_OLD,
                        "trades that old are not streamed; read them with ListTrades",
                        field="resume_from_seq",
                    )
                missed += trades
            missed.sort(key=lambda trade: trade.seq)
        names = [state.market.name for state in states]
        return self._streams.trades.open(mailbox, names, missed)

    def watch_candles(self, request: pb.WatchCandlesRequest, mailbox: Mailbox) -> Subscription:
        """Candles of one interval and source."""
        source, interval = _candle_kind(request.source, request.interval)
        return self._streams.candles.open(mailbox, request.markets, source, interval)


def _candle_kind(
    source: pb.CandleSource.ValueType, interval: pb.CandleInterval.ValueType
) -> tuple[CandleSource, Interval]:
    return CandleSource(source or CandleSource.CLOB), Interval(interval or Interval.M1)


def _page(token: str) -> int:
    """Where a page begins; 0 for the first. Only tokens that we gave are taken."""
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 19 and int(token)):
        raise Refused(Reason.INVALID_ARGUMENT, "is not a page token", field="page_token")
    return int(token)
