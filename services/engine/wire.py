"""Commands and events of the log as protobuf bytes, written without a message object in between.

For what most entries consist of, and only where the core is compiled: there it takes a tenth of the
time that messages take, uncompiled it would be slower than they are. The bytes are those that
protobuf gives; a test holds the two together field by field. All else is left to `logcodec`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from librt.strings import BytesWriter

from services.engine.domain.commands import CancelOrder, Command, PlaceOrder
from services.engine.domain.events import CommandRefused, Event, OrderClosed, OrderPlaced, Trade
from services.engine.wire_format import (
    close_message,
    open_message,
    write_bytes,
    write_number,
    write_signed,
    write_text,
    write_varint,
)

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
        write_varint(entry, _COMMANDS)
        write_varint(entry, len(logged))
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
    write_number(out, 1, command_seq)
    write_number(out, 2, command.account_id)
    write_number(out, 3, received_ns)
    write_bytes(out, 4, trace_id)
    write_bytes(out, 5, span_id)
    write_number(out, 6, command.deadline_ns)
    if isinstance(command, PlaceOrder):
        at = open_message(out, _PLACE_ORDER)
        _place_order(out, command)
    elif isinstance(command, CancelOrder):
        at = open_message(out, _CANCEL_ORDER)
        write_number(out, 1, command.order_id)
        write_text(out, 2, command.client_order_id)
    else:
        return False
    close_message(out, at)
    for event in events:
        outer = open_message(out, _EVENTS)
        if isinstance(event, OrderPlaced):
            at = open_message(out, _ORDER_PLACED)
            _placed(out, event)
        elif isinstance(event, OrderClosed):
            at = open_message(out, _ORDER_CLOSED)
            _closed(out, event)
        elif isinstance(event, Trade):
            at = open_message(out, _TRADE)
            _trade(out, event)
        elif isinstance(event, CommandRefused):
            at = open_message(out, _COMMAND_REFUSED)
            write_number(out, 1, event.reason)
            write_text(out, 2, event.field)
        else:
            return False
        close_message(out, at)
        close_message(out, outer)
    return True


def _place_order(out: BytesWriter, command: PlaceOrder) -> None:
    write_number(out, 1, command.market_id)
    write_text(out, 2, command.client_order_id)
    write_number(out, 3, command.side)
    write_number(out, 4, command.type)
    write_number(out, 5, command.time_in_force)
    write_number(out, 6, command.price_ticks)
    write_number(out, 7, command.quantity_lots)
    write_number(out, 8, command.quote_amount_units)
    write_number(out, 9, 1 if command.post_only else 0)
    write_number(out, 10, 1 if command.reduce_only else 0)
    write_number(out, 11, command.display_quantity_lots)
    write_number(out, 12, command.self_trade_prevention)
    write_number(out, 13, command.max_slippage_bps)
    write_number(out, 14, command.expire_ns)
    write_number(out, 15, command.trigger_price_ticks)
    write_number(out, 16, command.trigger_source)
    write_number(out, 17, command.trailing_bps)
    write_number(out, 18, command.stream_id)


def _placed(out: BytesWriter, event: OrderPlaced) -> None:
    write_number(out, 1, event.order_id)
    write_number(out, 2, event.account_id)
    write_number(out, 3, event.market_id)
    write_number(out, 4, event.hold_asset_id)
    write_number(out, 5, event.hold_units)
    write_number(out, 6, event.rested_lots)
    write_number(out, 7, event.price_ticks)
    write_number(out, 8, event.side)
    write_number(out, 9, event.quantity_lots)
    write_number(out, 10, event.trigger_price_ticks)
    write_number(out, 11, event.oco_order_id)


def _trade(out: BytesWriter, event: Trade) -> None:
    write_number(out, 1, event.trade_id)
    write_number(out, 2, event.market_id)
    write_number(out, 3, event.price_ticks)
    write_number(out, 4, event.quantity_lots)
    write_number(out, 5, event.taker_side)
    write_number(out, 6, event.maker_order_id)
    write_number(out, 7, event.maker_account_id)
    write_number(out, 8, event.taker_order_id)
    write_number(out, 9, event.taker_account_id)
    write_signed(out, 10, event.maker_fee_units)
    write_signed(out, 11, event.taker_fee_units)
    write_number(out, 12, event.quote_hold_taken)
    write_number(out, 13, event.notional_units)
    write_number(out, 14, event.base_units)


def _closed(out: BytesWriter, event: OrderClosed) -> None:
    write_number(out, 1, event.order_id)
    write_number(out, 2, event.account_id)
    write_number(out, 3, event.market_id)
    write_number(out, 4, event.status)
    write_number(out, 5, event.reason)
    write_number(out, 6, event.hold_released)
    write_number(out, 7, event.remaining_lots)
    write_number(out, 8, event.removed_lots)
    write_number(out, 9, event.price_ticks)
    write_number(out, 10, event.side)
    write_number(out, 11, event.hold_asset_id)
