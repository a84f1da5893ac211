"""The answers to orders and cancels as protobuf bytes, written without messages in between.

Like `wire` for the log: for what most answers are, and only where the core is compiled. A test
holds them to what `encode` makes; all else is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

from services.engine.domain.commands import CancelOrder, PlaceOrder
from services.engine.domain.constants import (
    ORDER_TYPE_MARKET,
    SELF_TRADE_PREVENTION_CANCEL_TAKER,
    SIDE_BUY,
    SIDE_SELL,
    TIME_IN_FORCE_GTC,
    TIME_IN_FORCE_IOC,
    TRIGGER_SOURCE_LAST,
)
from services.engine.domain.events import Event, OrderClosed, OrderPlaced, Trade
from services.engine.projection import OrderState, Projection
from services.engine.texts import MarketText
from services.engine.wire_format import (
    close_message,
    open_message,
    write_number,
    write_text,
)

_PLACED: Final = 3 << 3 | 2  # TradeResult.placed
_CANCELLED: Final = 5 << 3 | 2  # TradeResult.cancelled
_ORDER: Final = 1 << 3 | 2  # of either
_FILLS: Final = 2 << 3 | 2  # PlaceOrderResponse.fills
_CREATE_TIME: Final = 20 << 3 | 2
_UPDATE_TIME: Final = 21 << 3 | 2
_EXPIRE_TIME: Final = 22 << 3 | 2
_FILL_TIME: Final = 10 << 3 | 2
_SECOND: Final = 1_000_000_000


def result_bytes(
    request_id: int,
    command: object,
    events: Sequence[Event],
    projection: Projection,
    texts: dict[int, MarketText],
) -> bytes | None:
    """A TradeResult; None if it is of another kind."""
    first = events[0]
    out = BytesWriter()
    try:
        write_number(out, 1, request_id)
        if isinstance(first, OrderPlaced) and isinstance(command, PlaceOrder):
            order = projection.orders[first.order_id]
            text = texts[order.market_id]
            at = open_message(out, _PLACED)
            _order(out, order, text)
            for event in events:
                if isinstance(event, Trade) and event.taker_order_id == order.order_id:
                    _taker_fill(out, event, text, projection)
        elif isinstance(first, OrderClosed) and isinstance(command, CancelOrder):
            order = projection.orders[first.order_id]
            at = open_message(out, _CANCELLED)
            _order(out, order, texts[order.market_id])
        else:
            return None
        close_message(out, at)
    except (OverflowError, ValueError):
        # A number of 64 bits without a sign whose highest bit is set.
        return None
    return out.getvalue()


def _order(out: BytesWriter, order: OrderState, text: MarketText) -> None:
    request = order.request
    amount = request.quote_amount_units
    at = open_message(out, _ORDER)
    write_number(out, 1, order.order_id)
    write_text(out, 2, request.client_order_id)
    write_text(out, 3, text.name)
    write_number(out, 4, request.side)
    write_number(out, 5, request.type)
    write_number(out, 6, _time_in_force(request))
    write_number(out, 7, order.status)
    # Without a limit of its own, the protection price is nobody's business.
    if request.price_ticks > 0:
        write_text(out, 8, text.price(order.price_ticks))
    if amount:
        write_text(out, 10, text.amount(amount))
    else:
        write_text(out, 9, text.quantity(order.quantity_lots))
    write_text(out, 11, text.quantity(order.filled_lots))
    write_text(out, 12, text.amount(order.filled_notional_units))
    write_text(out, 13, text.amount(order.fees_units))
    write_number(out, 14, 1 if request.post_only else 0)
    write_number(out, 15, 1 if request.reduce_only else 0)
    if request.display_quantity_lots:
        write_text(out, 16, text.quantity(request.display_quantity_lots))
    write_text(out, 17, text.price(order.trigger_price_ticks))
    if request.type > ORDER_TYPE_MARKET:
        write_number(out, 18, request.trigger_source or TRIGGER_SOURCE_LAST)
    write_number(out, 19, order.close_reason)
    _time(out, _CREATE_TIME, order.created_ns)
    _time(out, _UPDATE_TIME, order.updated_ns)
    if request.expire_ns:
        _time(out, _EXPIRE_TIME, request.expire_ns)
    write_number(out, 23, order.log_seq)
    write_number(out, 24, request.self_trade_prevention or SELF_TRADE_PREVENTION_CANCEL_TAKER)
    write_number(out, 25, request.trailing_bps)
    write_number(out, 26, order.oco_order_id)
    close_message(out, at)


def _taker_fill(out: BytesWriter, trade: Trade, text: MarketText, projection: Projection) -> None:
    at = open_message(out, _FILLS)
    write_number(out, 1, trade.trade_id)
    write_number(out, 2, trade.taker_order_id)
    write_text(out, 3, text.name)
    write_number(out, 4, SIDE_BUY if trade.taker_side == SIDE_BUY else SIDE_SELL)
    write_text(out, 5, text.price(trade.price_ticks))
    write_text(out, 6, text.quantity(trade.quantity_lots))
    write_text(out, 7, text.amount(trade.notional_units))
    write_text(out, 8, text.amount(trade.taker_fee_units))
    _time(out, _FILL_TIME, projection.time_ns)
    write_number(out, 11, projection.seq)
    close_message(out, at)


def _time(out: BytesWriter, key: i64, ns: i64) -> None:
    at = open_message(out, key)
    write_number(out, 1, ns // _SECOND)
    write_number(out, 2, ns % _SECOND)
    close_message(out, at)


def _time_in_force(request: PlaceOrder) -> int:
    if request.time_in_force:
        return request.time_in_force
    return TIME_IN_FORCE_IOC if request.type == ORDER_TYPE_MARKET else TIME_IN_FORCE_GTC
