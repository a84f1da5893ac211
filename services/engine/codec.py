"""Public messages -> commands: the only place where decimal strings become integers.

Everything a request can have wrong is refused here with a reason and a field, or by the core; the
rules of the protos are not relied upon, because in streams and batches one bad command must not
spoil the others.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.common.v1 import error_pb2
from tidebook.common.v1.reason_pb2 import Reason as ReasonValue
from tidebook.engine.v1 import order_pb2, position_pb2

from kernel.markets import Market
from kernel.reasons import Reason, Refused
from kernel.shards import shard_of
from mesh.shards import ShardMap
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import position_commands as pc
from services.engine.domain.exchange import Exchange
from services.engine.domain.views import OrderView
from services.engine.place_order import CLIENT_ID, enum_value, invalid, place_order
from services.engine.submission import Item
from services.engine.texts import MarketText

_SECOND = 1_000_000_000


class MarketTexts:
    """The texts of all markets of shard number `shard`, by name and by id."""

    def __init__(self, shards: ShardMap | None = None, shard: int = 0) -> None:
        self.shards = shards or ShardMap.parse("")
        self.shard = shard
        self.by_id: dict[int, MarketText] = {}
        self.by_name: dict[str, MarketText] = {}

    def replace(self, markets: dict[int, Market]) -> None:
        """The configuration has changed."""
        self.by_id = {market_id: MarketText(market) for market_id, market in markets.items()}
        self.by_name = {text.market.name: text for text in self.by_id.values()}

    def named(self, name: str, *, field: str = "market") -> MarketText:
        """The market of a request. Raises `Refused`: MARKET_NOT_FOUND, WRONG_SHARD."""
        text = self.by_name.get(name)
        if text is None:
            if (shard := self.shards.of_market(name)) != self.shard:
                raise self.shards.elsewhere(shard, field)
            raise Refused(Reason.MARKET_NOT_FOUND, "no such market", field=field)
        return text

    def not_found(self, order_id: int, message: str = "") -> Refused:
        """The refusal of an order id that nothing is known of."""
        if (shard := shard_of(order_id)) != self.shard and shard in self.shards.numbers:
            return self.shards.elsewhere(shard, "order_id")
        return Refused(Reason.ORDER_NOT_FOUND, message, field="order_id")

    def id_of(self, name: str) -> int:
        """Id of a market a request may name; 0 for all. Raises what `named` does."""
        return self.named(name).market.market_id if name else 0


def place_command(
    request: order_pb2.PlaceOrderRequest, texts: MarketTexts, account_id: int, stream_id: int = 0
) -> c.PlaceOrder:
    """`PlaceOrderRequest` -> command. Raises `Refused` with the field at fault."""
    return place_order(request, texts.named(request.market), account_id, stream_id)


def oco_command(
    request: order_pb2.PlaceOcoRequest, texts: MarketTexts, account_id: int
) -> c.PlaceOco:
    """`PlaceOcoRequest` -> command. Raises `Refused`; its field begins with the order's name."""
    legs: list[c.PlaceOrder] = []
    deadlines: list[int] = []
    for name, order in (("first", request.first), ("second", request.second)):
        try:
            leg = place_command(order, texts, account_id)
        except Refused as refused:
            refused.field = f"{name}.{refused.field}"
            raise
        deadlines.append(leg.deadline_ns)
        # The pair says who acts, and until when.
        leg.account_id = leg.deadline_ns = 0
        legs.append(leg)
    deadline_ns = min((ns for ns in deadlines if ns), default=0)
    return c.PlaceOco(account_id, legs[0], legs[1], deadline_ns)


def cancel_command(request: order_pb2.CancelOrderRequest, account_id: int) -> c.CancelOrder:
    """`CancelOrderRequest` -> command. Raises `Refused(INVALID_ARGUMENT)`."""
    _check_named(request)
    return c.CancelOrder(account_id, request.order_id, request.client_order_id)


def cancel_all_command(
    request: order_pb2.CancelAllOrdersRequest, texts: MarketTexts, account_id: int
) -> c.CancelAll:
    """`CancelAllOrdersRequest` -> command. Raises `Refused`."""
    return c.CancelAll(
        account_id,
        texts.id_of(request.market),
        enum_value(request.side, 0, 2, "side"),
        0,
        Reason.CANCELLED_BY_USER,
    )


def cancel_all_after_command(
    request: order_pb2.CancelAllAfterRequest, now_ns: int, account_id: int
) -> c.CancelAllAfter:
    """`CancelAllAfterRequest` -> command; the timeout runs from `now_ns`."""
    timeout_ns = request.timeout_ms * 1_000_000
    return c.CancelAllAfter(account_id, now_ns + timeout_ns if timeout_ns else 0)


def open_cfd_command(
    request: position_pb2.OpenCfdRequest, texts: MarketTexts, account_id: int
) -> pc.OpenCfd:
    """`OpenCfdRequest` -> command. Raises `Refused` with the field at fault."""
    text = texts.named(request.market)
    client_cfd_id = request.client_cfd_id
    if client_cfd_id and not CLIENT_ID.fullmatch(client_cfd_id):
        raise invalid("client_cfd_id", "must be 1 to 36 letters, digits or _ . : -")
    return pc.OpenCfd(
        account_id,
        text.market.market_id,
        client_cfd_id,
        enum_value(request.side, 1, 2, "side"),
        text.market.quote.parse(request.margin, field="margin"),
        request.leverage,
        text.ticks(request.stop_loss, "stop_loss"),
        text.ticks(request.take_profit, "take_profit"),
    )


def close_cfd_command(request: position_pb2.CloseCfdRequest, account_id: int) -> pc.CloseCfd:
    """`CloseCfdRequest` -> command. Raises `Refused(CFD_NOT_FOUND)`."""
    if request.cfd_id >> 63:
        raise Refused(Reason.CFD_NOT_FOUND, field="cfd_id")
    return pc.CloseCfd(account_id, request.cfd_id)


def cfd_triggers_command(
    request: position_pb2.UpdateCfdTriggersRequest, text: MarketText, account_id: int
) -> pc.UpdateCfdTriggers:
    """`UpdateCfdTriggersRequest` of a CFD in that market -> command. Raises `Refused`."""
    return pc.UpdateCfdTriggers(
        account_id,
        request.cfd_id,
        text.ticks(request.stop_loss, "stop_loss"),
        text.ticks(request.take_profit, "take_profit"),
    )


def leverage_command(
    request: position_pb2.SetLeverageRequest, texts: MarketTexts, account_id: int
) -> pc.SetLeverage:
    """`SetLeverageRequest` -> command. Raises `Refused(MARKET_NOT_FOUND)`."""
    market_id = texts.named(request.market).market.market_id
    return pc.SetLeverage(account_id, market_id, request.leverage)


def add_margin_command(
    request: position_pb2.AddMarginRequest, texts: MarketTexts, account_id: int
) -> pc.AddMargin:
    """`AddMarginRequest` -> command. Raises `Refused` with the field at fault."""
    market = texts.named(request.market).market
    amount = market.quote.parse(request.amount, field="amount")
    return pc.AddMargin(account_id, market.market_id, amount, request.request_id)


class LateClose:
    """`ClosePositionRequest` -> a MARKET order that only reduces, once the position is known for
    certain. Raises `Refused` for what is wrong in itself.
    """

    __slots__ = ("_account_id", "_client_order_id", "_lots", "_market", "_now_ns")

    def __init__(
        self,
        request: position_pb2.ClosePositionRequest,
        texts: MarketTexts,
        account_id: int,
        now_ns: int,
    ) -> None:
        text = texts.named(request.market)
        self._account_id = account_id
        self._client_order_id = request.client_order_id
        self._market = text.market
        self._lots = text.lots(request.quantity, "quantity")
        self._now_ns = now_ns
        if self._client_order_id and not CLIENT_ID.fullmatch(self._client_order_id):
            raise invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")

    def resolve(self, exchange: Exchange) -> c.Command | Refused:
        """The order, or why there is none."""
        known = exchange.known_request(self._account_id, self._client_order_id, self._now_ns)
        if known is not None:
            # The position may be gone by now: the order that was asked for tells which one.
            return self._order(known.side, self._lots or known.quantity_lots)
        position = exchange.position(self._account_id, self._market.market_id)
        if position is None:
            return Refused(Reason.POSITION_NOT_FOUND, "no open position there", field="market")
        side = k.SIDE_SELL if position.quantity_lots > 0 else k.SIDE_BUY
        return self._order(side, self._lots or abs(position.quantity_lots))

    def _order(self, side: int, lots: int) -> c.PlaceOrder:
        return c.PlaceOrder(
            self._account_id,
            self._market.market_id,
            self._client_order_id,
            side,
            k.ORDER_TYPE_MARKET,
            quantity_lots=lots,
            reduce_only=True,
        )


class LateAmend:
    """`AmendOrderRequest` -> command, once the market of the order is known for certain."""

    __slots__ = ("_account_id", "_request", "_texts")

    def __init__(
        self, request: order_pb2.AmendOrderRequest, texts: MarketTexts, account_id: int
    ) -> None:
        self._request = request
        self._texts = texts
        self._account_id = account_id

    def resolve(self, exchange: Exchange) -> c.Command | Refused:
        """The command, or why there is none."""
        request = self._request
        try:
            _check_named(request)
            order = self._order(exchange)
            if order is None or order.account_id != self._account_id:
                # Let the core say it: it knows whether the order is closed already.
                return self._command(0, 0, 0)
            text = self._texts.by_id[order.market_id]
            return self._command(
                text.ticks(request.price, "price"),
                text.lots(request.quantity, "quantity"),
                text.ticks(request.trigger_price, "trigger_price"),
            )
        except Refused as refused:
            return refused

    def _order(self, exchange: Exchange) -> OrderView | None:
        if self._request.order_id:
            return exchange.order(self._request.order_id)
        return exchange.order_by_client_id(self._account_id, self._request.client_order_id)

    def _command(self, price_ticks: int, quantity_lots: int, trigger_ticks: int) -> c.AmendOrder:
        return c.AmendOrder(
            self._account_id,
            self._request.order_id,
            self._request.client_order_id,
            price_ticks,
            quantity_lots,
            trigger_ticks,
        )


def trade_item(
    request: order_pb2.TradeCommand, texts: MarketTexts, account_id: int, stream_id: int = 0
) -> Item:
    """`TradeCommand` -> command; one that cannot be understood is its refusal."""
    try:
        kind = request.WhichOneof("command")
        if kind == "place":
            return place_command(request.place, texts, account_id, stream_id)
        if kind == "cancel":
            return cancel_command(request.cancel, account_id)
        if kind == "amend":
            return LateAmend(request.amend, texts, account_id)
        if kind == "cancel_all":
            return cancel_all_command(request.cancel_all, texts, account_id)
    except Refused as refused:
        return refused
    return invalid("command", "is missing")


def trade_items(
    requests: Any, texts: MarketTexts, account_id: int, stream_id: int = 0
) -> list[Item]:
    """`TradeCommand`s -> one item each."""
    return [trade_item(request, texts, account_id, stream_id) for request in requests]


def span_name(request: order_pb2.TradeCommand) -> str:
    """The name of a command's own span."""
    return f"engine.{request.WhichOneof('command') or 'nothing'}"


def write_error(error: error_pb2.Error, refused: Refused) -> None:
    """A refusal as data."""
    error.reason = ReasonValue.ValueType(refused.reason)
    error.message = refused.message
    if refused.field:
        error.field = refused.field
    if refused.details:
        error.details.update(refused.details)


def set_time(timestamp: Timestamp, ns: int) -> None:
    """Unix nanoseconds into a `Timestamp` field; a third of what `FromNanoseconds` costs."""
    timestamp.seconds, timestamp.nanos = divmod(ns, _SECOND)


def _check_named(request: order_pb2.CancelOrderRequest | order_pb2.AmendOrderRequest) -> None:
    """Exactly one of the two names, well formed."""
    client_order_id = request.client_order_id
    if request.order_id:
        if client_order_id:
            raise invalid("client_order_id", "name the order by one id, not by two")
        if request.order_id >> 63:
            raise Refused(Reason.ORDER_NOT_FOUND, field="order_id")
    elif not client_order_id:
        raise invalid("order_id", "an order_id or a client_order_id is required")
    elif not CLIENT_ID.fullmatch(client_order_id):
        raise invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")
