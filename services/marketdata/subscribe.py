"""The `Subscribe` stream: any subscriptions on one stream, changed while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message
from tidebook.common.v1 import error_pb2, reason_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.reasons import Reason, Refused
from services.marketdata.hub import Mailbox, Subscription
from services.marketdata.service import MarketData

SUBSCRIPTIONS_MAX = 100
ANSWERS_MAX = 1000
_FIELDS: dict[type[Message], str] = {
    pb.WatchPricesResponse: "prices",
    pb.WatchTickersResponse: "tickers",
    pb.WatchBookResponse: "book",
    pb.WatchOrderBookResponse: "order_book",
    pb.WatchTradesResponse: "trades",
    pb.WatchCandlesResponse: "candles",
}


class SubscribeSession:
    """One stream's set of subscriptions, and the answers to changes of it."""

    def __init__(self, market_data: MarketData, mailbox: Mailbox) -> None:
        self._data = market_data
        self._mailbox = mailbox
        self._subscriptions: dict[bytes, Subscription] = {}
        self._answers: deque[pb.SubscribeResponse] = deque()

    async def read(self, requests: AsyncIterator[pb.SubscribeRequest]) -> None:
        """Make every change that is asked for; the stream ends when the requests do."""
        try:
            async for request in requests:
                self.change(request)
        finally:
            self._mailbox.end()

    def change(self, request: pb.SubscribeRequest) -> None:
        """Make one change and queue its answer, which comes before the first data of it."""
        if len(self._answers) >= ANSWERS_MAX:
            self._mailbox.fail(Refused(Reason.SLOW_READER, "too many answers wait to be read"))
            return
        self._answers.append(pb.SubscribeResponse(acknowledged=request.request_id))
        self._mailbox.ready(self)
        try:
            self._apply(request)
        except Refused as refused:
            error = error_pb2.Error(
                reason=reason_pb2.Reason.ValueType(refused.reason),
                message=refused.message,
                field=refused.field,
                details=refused.details,
            )
            self._answers[-1] = pb.SubscribeResponse(
                refused=pb.SubscribeRefused(request_id=request.request_id, error=error)
            )

    def drain(self) -> Message | None:
        """The next answer."""
        if not self._answers:
            return None
        answer = self._answers.popleft()
        if self._answers:
            self._mailbox.ready(self)
        return answer

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in self._subscriptions.values():
            subscription.close()

    def _apply(self, request: pb.SubscribeRequest) -> None:
        what: Any = request.WhichOneof("subscription")
        key = what.encode() + getattr(request, what).SerializeToString(deterministic=True)
        existing = self._subscriptions.get(key)
        if request.unsubscribe:
            if existing is None:
                raise Refused(Reason.NOT_FOUND, "there is no such subscription on this stream")
            self._subscriptions.pop(key).close()
            self._mailbox.forget(existing)
        elif existing is not None:
            raise Refused(Reason.ALREADY_EXISTS, "this stream has that subscription already")
        elif len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise Refused(
                Reason.OVERLOADED, f"one stream takes at most {SUBSCRIPTIONS_MAX} subscriptions"
            )
        else:
            self._subscriptions[key] = self._open(what, request)

    def _open(self, what: str, request: pb.SubscribeRequest) -> Subscription:
        data, mailbox = self._data, self._mailbox
        match what:
            case "prices":
                return data.watch_prices(request.prices, mailbox)
            case "tickers":
                return data.watch_tickers(request.tickers, mailbox)
            case "book":
                return data.watch_book(request.book, mailbox)
            case "order_book":
                return data.watch_order_book(request.order_book, mailbox)
            case "trades":
                return data.watch_trades(request.trades, mailbox)
            case _:
                return data.watch_candles(request.candles, mailbox)


def as_subscribe_response(message: Message) -> pb.SubscribeResponse:
    """A response of any subscription as this stream sends it."""
    if isinstance(message, pb.SubscribeResponse):
        return message
    response = pb.SubscribeResponse()
    getattr(response, _FIELDS[type(message)]).CopyFrom(message)
    return response
