"""Commands and events of the log as protobuf bytes, written without a message object in between.

For what most entries consist of, and only where the core is compiled: there it takes a tenth of the
time that messages take, uncompiled it would be slower than they are. The bytes are those that
protobuf gives; a test holds the two together field by field. All else is left to `logcodec`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64, u8

from services.engine.domain.commands import CancelOrder, Command, PlaceOrder
from services.engine.domain.events import CommandRefused, Event, OrderClosed, OrderPlaced, Trade

# A field's key is its number x 8 + its kind: 0 for a number, 2 for bytes with their length.
_COMMANDS: Final = 7 << 3 | 2  # LogEntry.commands
_EVENTS: Final = 40 << 3 | 2  # LoggedCommand.events
_PLACE_ORDER: Final = 13 << 3 | 2
_CANCEL_ORDER: Final = 14 << 3 | 2
_COMMAND_REFUSED: Final = 1 << 3 | 2
_ORDER_PLACED: Final = 5 << 3 | 2
_TRADE: Final = 6 << 3 | 2
_ORDER_CLOSED: Final = 7 << 3 | 2


class WireCommands:
    """The commands of one log entry. `rest` makes the LoggedCommand of any kind in the slow way."""

    def __init__(self, rest: Callable[..., bytes]) -> None:
        self._rest = rest
        self._entry = BytesWriter()
        self._one = BytesWriter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        command: Command,
        events: Sequence[Event],
        command_seq: int,
        received_ns: int,
        trace_id: bytes,
        span_id: bytes,
    ) -> None:
        """Append a command and what it caused."""
        one = self._one
        one.truncate(0)
        done = False
        try:
            done = _logged_command(
                one, command, events, command_seq, received_ns, trace_id, span_id
            )
        except (OverflowError, ValueError):
            # A number of 64 bits without a sign whose highest bit is set.
            done = False
        if done:
            logged = one.getvalue()
        else:
            logged = self._rest(command, events, command_seq, received_ns, trace_id, span_id)
        entry = self._entry
        _varint(entry, _COMMANDS)
        _varint(entry, len(logged))
        entry.write(logged)
        self._count += 1

    def getvalue(self) -> bytes:
        """The bytes of all of them, as fields of a LogEntry."""
        return self._entry.getvalue()


def _logged_command(
    out: BytesWriter,
    command: Command,
    events: Sequence[Event],
    command_seq: int,
    received_ns: int,
    trace_id: bytes,
    span_id: bytes,
) -> bool:
    """Write a LoggedCommand; False, with part of it written, if it has something else in it."""
    _number(out, 1, command_seq)
    _number(out, 2, command.account_id)
    _number(out, 3, received_ns)
    _bytes(out, 4, trace_id)
    _bytes(out, 5, span_id)
    _number(out, 6, command.deadline_ns)
    if isinstance(command, PlaceOrder):
        at = _open(out, _PLACE_ORDER)
        _place_order(out, command)
    elif isinstance(command, CancelOrder):
        at = _open(out, _CANCEL_ORDER)
        _number(out, 1, command.order_id)
        _text(out, 2, command.client_order_id)
    else:
        return False
    _close(out, at)
    for event in events:
        outer = _open(out, _EVENTS)
        if isinstance(event, OrderPlaced):
            at = _open(out, _ORDER_PLACED)
            _placed(out, event)
        elif isinstance(event, OrderClosed):
            at = _open(out, _ORDER_CLOSED)
            _closed(out, event)
        elif isinstance(event, Trade):
            at = _open(out, _TRADE)
            _trade(out, event)
        elif isinstance(event, CommandRefused):
            at = _open(out, _COMMAND_REFUSED)
            _number(out, 1, event.reason)
            _text(out, 2, event.field)
        else:
            return False
        _close(out, at)
        _close(out, outer)
    return True


def _place_order(out: BytesWriter, command: PlaceOrder) -> None:
    _number(out, 1, command.market_id)
    _text(out, 2, command.client_order_id)
    _number(out, 3, command.side)
    _number(out, 4, command.type)
    _number(out, 5, command.time_in_force)
    _number(out, 6, command.price_ticks)
    _number(out, 7, command.quantity_lots)
    _number(out, 8, command.quote_amount_units)
    _number(out, 9, 1 if command.post_only else 0)
    _number(out, 10, 1 if command.reduce_only else 0)
    _number(out, 11, command.display_quantity_lots)
    _number(out, 12, command.self_trade_prevention)
    _number(out, 13, command.max_slippage_bps)
    _number(out, 14, command.expire_ns)
    _number(out, 15, command.trigger_price_ticks)
    _number(out, 16, command.trigger_source)
    _number(out, 17, command.trailing_bps)
    _number(out, 18, command.stream_id)


def _placed(out: BytesWriter, event: OrderPlaced) -> None:
    _number(out, 1, event.order_id)
    _number(out, 2, event.account_id)
    _number(out, 3, event.market_id)
    _number(out, 4, event.hold_asset_id)
    _number(out, 5, event.hold_units)
    _number(out, 6, event.rested_lots)
    _number(out, 7, event.price_ticks)
    _number(out, 8, event.side)
    _number(out, 9, event.quantity_lots)
    _number(out, 10, event.trigger_price_ticks)
    _number(out, 11, event.oco_order_id)


def _trade(out: BytesWriter, event: Trade) -> None:
    _number(out, 1, event.trade_id)
    _number(out, 2, event.market_id)
    _number(out, 3, event.price_ticks)
    _number(out, 4, event.quantity_lots)
    _number(out, 5, event.taker_side)
    _number(out, 6, event.maker_order_id)
    _number(out, 7, event.maker_account_id)
    _number(out, 8, event.taker_order_id)
    _number(out, 9, event.taker_account_id)
    _signed(out, 10, event.maker_fee_units)
    _signed(out, 11, event.taker_fee_units)
    _number(out, 12, event.quote_hold_taken)
    _number(out, 13, event.notional_units)
    _number(out, 14, event.base_units)


def _closed(out: BytesWriter, event: OrderClosed) -> None:
    _number(out, 1, event.order_id)
    _number(out, 2, event.account_id)
    _number(out, 3, event.market_id)
    _number(out, 4, event.status)
    _number(out, 5, event.reason)
    _number(out, 6, event.hold_released)
    _number(out, 7, event.remaining_lots)
    _number(out, 8, event.removed_lots)
    _number(out, 9, event.price_ticks)
    _number(out, 10, event.side)
    _number(out, 11, event.hold_asset_id)


# ---------------------------------------------------------------- the wire format


def _varint(out: BytesWriter, n: i64) -> None:
    """Seven bits a byte, the lowest first; a negative number as its 64 bits."""
    left: i64 = 9
    while (n > 127 or n < 0) and left:
        out.append(u8(n & 127 | 128))
        n >>= 7
        left -= 1
    out.append(u8(n & 1 if left == 0 else n))


def _number(out: BytesWriter, field: i64, n: i64) -> None:
    """A number that is not zero: any of int32, int64, uint32, uint64, bool, enum."""
    if n != 0:
        _varint(out, field << 3)
        _varint(out, n)


def _signed(out: BytesWriter, field: i64, n: i64) -> None:
    """A sint64: zigzag, so that small negative numbers are short."""
    _number(out, field, n << 1 if n >= 0 else ~(n << 1))


def _text(out: BytesWriter, field: i64, text: str) -> None:
    if text:
        _bytes(out, field, text.encode())


def _bytes(out: BytesWriter, field: i64, data: bytes) -> None:
    if data:
        _varint(out, field << 3 | 2)
        _varint(out, len(data))
        out.write(data)


def _open(out: BytesWriter, key: i64) -> i64:
    """Begin a message inside; returns where its length goes, for which one byte is left."""
    _varint(out, key)
    out.append(0)
    return len(out) - 1


def _close(out: BytesWriter, at: i64) -> None:
    """End a message inside."""
    size: i64 = len(out) - at - 1
    if size < 128:
        out[at] = u8(size)
        return
    inside = out.getvalue()[at + 1 :]
    out.truncate(at)
    _varint(out, size)
    out.write(inside)
