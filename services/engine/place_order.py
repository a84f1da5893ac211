"""The request for an order -> its command, field by field. Compiled with the core.

Requests are messages of protobuf, whose fields are typed where `codec` is read, not here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from kernel.reasons import Reason, Refused
from services.engine.domain.commands import PlaceOrder
from services.engine.texts import MarketText

CLIENT_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,36}", re.ASCII)
_BPS_MAX: Final = 10_000
_SECOND: Final = 1_000_000_000
# 2262: what an int64 of nanoseconds can say.
_SECONDS_MAX: Final = (1 << 63) // _SECOND - 1


def place_order(request: Any, text: MarketText, account_id: int, stream_id: int) -> PlaceOrder:
    """`PlaceOrderRequest` for the market of `text` -> command. Raises `Refused` with the field at
    fault.
    """
    client_order_id: str = request.client_order_id
    if client_order_id and not CLIENT_ID.fullmatch(client_order_id):
        raise invalid("client_order_id", "must be 1 to 36 letters, digits or _ . : -")
    quote_amount: str = request.quote_amount
    quote_units: int = 0
    if quote_amount:
        quote_units = text.market.quote.parse(quote_amount, field="quote_amount")
        if quote_units == 0:
            raise Refused(Reason.NOTIONAL_TOO_SMALL, "must be above zero", field="quote_amount")
    return PlaceOrder(
        account_id,
        text.market.market_id,
        client_order_id,
        enum_value(request.side, 1, 2, "side"),
        enum_value(request.type, 1, 7, "type"),
        enum_value(request.time_in_force, 0, 4, "time_in_force"),
        text.ticks(request.price, "price"),
        text.lots(request.quantity, "quantity"),
        quote_units,
        request.post_only,
        request.reduce_only,
        text.lots(request.display_quantity, "display_quantity"),
        enum_value(request.self_trade_prevention, 0, 4, "self_trade_prevention"),
        _bps(request.max_slippage_bps, "max_slippage_bps"),
        _ns(request.expire_time, "expire_time") if request.HasField("expire_time") else 0,
        text.ticks(request.trigger_price, "trigger_price"),
        enum_value(request.trigger_source, 0, 2, "trigger_source"),
        _bps(request.trailing_bps, "trailing_bps"),
        stream_id,
        _ns(request.deadline, "deadline") if request.HasField("deadline") else 0,
    )


def enum_value(value: int, first: int, last: int, field: str) -> int:
    """A number of an enum that is one of its values `first` to `last`. Raises `Refused`."""
    # Open enums: a newer client may send a value that has no name here.
    if first <= value <= last:
        return value
    raise invalid(field, "is missing" if value == 0 else "is not a known value")


def invalid(field: str, message: str) -> Refused:
    """The refusal of a field that cannot be understood."""
    return Refused(Reason.INVALID_ARGUMENT, message, field=field)


def _ns(timestamp: Any, field: str) -> int:
    seconds: int = timestamp.seconds
    nanos: int = timestamp.nanos
    if not (0 <= seconds <= _SECONDS_MAX and 0 <= nanos < _SECOND):
        raise invalid(field, "is not a time from 1970 to 2262")
    ns = seconds * _SECOND + nanos
    if ns == 0:
        raise invalid(field, "must be after 1970")
    return ns


def _bps(value: int, field: str) -> int:
    if value <= _BPS_MAX:
        return value
    raise invalid(field, f"must be at most {_BPS_MAX}")
