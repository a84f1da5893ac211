"""Public messages -> commands: the only place where decimal strings become integers.

Everything a request can have wrong is refused here with a reason and a field, or by the core; the
rules of the protos are not relied upon, because in streams and batches one bad command must not
spoil the others.
"""

from __future__ import annotations

import re
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
from services.engine.submission import Item

_CLIENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,36}", re.ASCII)
_CACHE_MAX = 50_000
_BPS_MAX = 10_000
_SECOND = 1_000_000_000
# 2262: what an int64 of nanoseconds can say.
_SECONDS_MAX = (1 << 63) // _SECOND - 1


class MarketText:
    """Decimal strings of one market <-> ticks and lots, remembered.

    The same few prices and sizes come again and again; a look-up costs a twentieth of parsing.
    """

    __slots__ = ("_lots", "_lots_text", "_ticks", "_ticks_text", "market")

    def __init__(self, market: Market) -> None:
        self.market = market
        self._ticks: dict[str, int] = {}
        self._lots: dict[str, int] = {}
        self._ticks_text: dict[int, str] = {}
        self._lots_text: dict[int, str] = {}

    def ticks(self, text: str, field: str) -> int:
        """Price -> ticks, 0 for empty text. Raises `Refused`, also for a price of zero."""
        if not text:
            return 0
        ticks = self._ticks.get(text)
        if ticks is None:
            ticks = self.market.parse_price(text, field=field)
            if ticks == 0:
                # 0 means "none" from here on, and nobody who wrote a price meant that.
                raise Refused(Reason.PRICE_OUT_OF_RANGE, "must be above zero", field=field)
            _remember(self._ticks, text, ticks)
        return ticks

    def lots(self, text: str, field: str) -> int:
        """Quantity -> lots, 0 for empty text. Raises `Refused`, also for a quantity of zero."""
        if not text:
            return 0
        lots = self._lots.get(text)
        if lots is None:
            lots = self.market.parse_quantity(text, field=field)
            if lots == 0:
                raise Refused(Reason.QUANTITY_TOO_SMALL, "must be above zero", field=field)
            _remember(self._lots, text, lots)
        return lots

    def price(self, ticks: int) -> str:
        """Ticks -> price; empty for 0, which stands for none."""
        text = self._ticks_text.get(ticks)
        if text is None:
            text = self.market.format_price(ticks) if ticks else ""
            _remember(self._ticks_text, ticks, text)
        return text

    def quantity(self, lots: int) -> str:
        """Lots -> quantity."""
        text = self._lots_text.get(lots)
        if text is None:
            text = self.market.format_quantity(lots)
            _remember(self._lots_text, lots, text)
        return text

    def amount(self, units: int) -> str:
        """Units of the quote asset -> amount."""
        return self.market.quote.format(units)


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
    text = texts.named(request.market)
    client_order_id = request.client_order_id
    if client_order_id and not _CLIENT_ID.fullmatch(client_order_id):
        raise _invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")
    quote_amount = request.quote_amount
    if quote_amount:
        quote_units = text.market.quote.parse(quote_amount, field="quote_amount")
        if quote_units == 0:
            raise Refused(Reason.NOTIONAL_TOO_SMALL, "must be above zero", field="quote_amount")
    else:
        quote_units = 0
    display = request.display_quantity
    trigger = request.trigger_price
    return c.PlaceOrder(
        account_id,
        text.market.market_id,
        client_order_id,
        _enum(request.side, 1, 2, "side"),
        _enum(request.type, 1, 7, "type"),
        _enum(request.time_in_force, 0, 4, "time_in_force"),
        text.ticks(request.price, "price"),
        text.lots(request.quantity, "quantity"),
        quote_units,
        request.post_only,
        request.reduce_only,
        text.lots(display, "display_quantity") if display else 0,
        _enum(request.self_trade_prevention, 0, 4, "self_trade_prevention"),
        _bps(request.max_slippage_bps, "max_slippage_bps"),
        _ns(request.expire_time, "expire_time") if request.HasField("expire_time") else 0,
        text.ticks(trigger, "trigger_price") if trigger else 0,
        _enum(request.trigger_source, 0, 2, "trigger_source"),
        _bps(request.trailing_bps, "trailing_bps"),
        stream_id,
        _ns(request.deadline, "deadline") if request.HasField("deadline") else 0,
    )


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
        _enum(request.side, 0, 2, "side"),
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
    if client_cfd_id and not _CLIENT_ID.fullmatch(client_cfd_id):
        raise _invalid("client_cfd_id", "must be 1 to 36 letters, digits or _ . : -")
    return pc.OpenCfd(
        account_id,
        text.market.market_id,
        client_cfd_id,
        _enum(request.side, 1, 2, "side"),
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
        if self._client_order_id and not _CLIENT_ID.fullmatch(self._client_order_id):
            raise _invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")

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
    return _invalid("command", "is missing")


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


def _ns(timestamp: Timestamp, field: str) -> int:
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not (0 <= seconds <= _SECONDS_MAX and 0 <= nanos < _SECOND):
        raise _invalid(field, "is not a time from 1970 to 2262")
    ns: int = seconds * _SECOND + nanos
    if ns == 0:
        raise _invalid(field, "must be after 1970")
    return ns


def _enum(value: int, first: int, last: int, field: str) -> int:
    # Open enums: a newer client may send a value that has no name here.
    if first <= value <= last:
        return value
    raise _invalid(field, "is missing" if value == 0 else "is not a known value")


def _bps(value: int, field: str) -> int:
    if value <= _BPS_MAX:
        return value
    raise _invalid(field, f"must be at most {_BPS_MAX}")


def _check_named(request: order_pb2.CancelOrderRequest | order_pb2.AmendOrderRequest) -> None:
    """Exactly one of the two names, well formed."""
    client_order_id = request.client_order_id
    if request.order_id:
        if client_order_id:
            raise _invalid("client_order_id", "name the order by one id, not by two")
        if request.order_id >> 63:
            raise Refused(Reason.ORDER_NOT_FOUND, field="order_id")
    elif not client_order_id:
        raise _invalid("order_id", "an order_id or a client_order_id is required")
    elif not _CLIENT_ID.fullmatch(client_order_id):
        raise _invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")


def _invalid(field: str, message: str) -> Refused:
    return Refused(Reason.INVALID_ARGUMENT, message, field=field)


def _remember(cache: dict[Any, Any], key: object, value: object) -> None:
    if len(cache) >= _CACHE_MAX:
        cache.clear()
    cache[key] = value
