"""Commands and events <-> the messages of log.proto.

Records and messages have the same field names by design, so one loop over the fields that are not
zero writes any of them, and one over all fields reads it. Orders and the events that most of them
cause are written field by field, which is faster than the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from tidebook.engine.v1 import log_pb2

from services.engine import compiled
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.record import Record, field_names

_COMMANDS: Final[dict[type[c.Command], str]] = {
    c.Configure: "configure",
    c.BeginEpoch: "begin_epoch",
    c.Transfer: "transfer",
    c.PlaceOrder: "place_order",
    c.CancelOrder: "cancel_order",
    c.CancelAll: "cancel_all",
    c.CancelAllAfter: "cancel_all_after",
    c.AmendOrder: "amend_order",
    c.SetMarketStatus: "set_market_status",
    c.Tick: "tick",
    c.SetPrices: "set_prices",
    c.PlaceOco: "place_oco",
    pc.SetLeverage: "set_leverage",
    pc.AddMargin: "add_margin",
    pc.OpenCfd: "open_cfd",
    pc.CloseCfd: "close_cfd",
    pc.UpdateCfdTriggers: "update_cfd_triggers",
}
_EVENTS: Final[dict[type[e.Event], str]] = {
    e.CommandRefused: "command_refused",
    e.CommandRepeated: "command_repeated",
    e.Configured: "configured",
    e.EpochBegan: "epoch_began",
    e.TransferApplied: "transfer_applied",
    e.OrderPlaced: "order_placed",
    e.Trade: "trade",
    e.OrderClosed: "order_closed",
    e.OrderAmended: "order_amended",
    e.MarketStatusChanged: "market_status_changed",
    e.OrdersCancelled: "orders_cancelled",
    e.CancelAllAfterSet: "cancel_all_after_set",
    e.TimePassed: "time_passed",
    e.OrderReplenished: "order_replenished",
    e.OrderTriggered: "order_triggered",
    e.PricesSet: "prices_set",
    pe.PositionChanged: "position_changed",
    pe.CfdOpened: "cfd_opened",
    pe.CfdClosed: "cfd_closed",
    pe.CfdTriggersChanged: "cfd_triggers_changed",
    pe.Liquidated: "liquidated",
    pe.LeverageChanged: "leverage_changed",
}
# Records inside records, by the name of their message.
_NESTED: Final[dict[str, type[Record]]] = {
    "AssetConfig": c.AssetConfig,
    "MarketConfig": c.MarketConfig,
    "MarginTierConfig": c.MarginTierConfig,
    "PriceUpdate": c.PriceUpdate,
    "PlaceOrderCommand": c.PlaceOrder,
    "AutoDeleverage": pe.AutoDeleverage,
}
# Fields of LoggedCommand itself.
_OUTER: Final = ("account_id", "deadline_ns")


def _own_fields(kind: type[Record]) -> tuple[str, ...]:
    return tuple(name for name in field_names(kind) if name not in _OUTER)


_COMMAND_FIELDS: Final = {kind: _own_fields(kind) for kind in _COMMANDS}
_EVENT_FIELDS: Final = {kind: field_names(kind) for kind in _EVENTS}
_NESTED_FIELDS: Final = {
    kind: _own_fields(kind) if issubclass(kind, c.Command) else field_names(kind)
    for kind in _NESTED.values()
}
_COMMAND_OF: Final = {name: kind for kind, name in _COMMANDS.items()}
_EVENT_OF: Final = {name: kind for kind, name in _EVENTS.items()}


def add_command(
    entry: log_pb2.LogEntry,
    command: c.Command,
    events: Sequence[e.Event],
    *,
    command_seq: int,
    received_ns: int,
    trace_id: bytes = b"",
    span_id: bytes = b"",
) -> None:
    """Append a command and what it caused to a log entry."""
    logged = entry.commands.add()
    logged.command_seq = command_seq
    logged.received_ns = received_ns
    if trace_id:
        logged.trace_id = trace_id
        logged.span_id = span_id
    _write_command(logged, command)
    add_events(logged, events)


class Commands(Protocol):
    """The commands of one log entry, on their way to be bytes."""

    def __len__(self) -> int: ...

    def add(
        self,
        command: c.Command,
        events: Sequence[e.Event],
        command_seq: int,
        received_ns: int,
        trace_id: bytes,
        span_id: bytes,
    ) -> None:
        """Append a command and what it caused."""
        ...

    def getvalue(self) -> bytes:
        """The field `commands` of a LogEntry, to stand behind its other fields."""
        ...


class MessageCommands:
    """`Commands` as protobuf messages."""

    def __init__(self) -> None:
        self._entry = log_pb2.LogEntry()

    def __len__(self) -> int:
        return len(self._entry.commands)

    def add(
        self,
        command: c.Command,
        events: Sequence[e.Event],
        command_seq: int,
        received_ns: int,
        trace_id: bytes,
        span_id: bytes,
    ) -> None:
        """Append a command and what it caused."""
        add_command(
            self._entry,
            command,
            events,
            command_seq=command_seq,
            received_ns=received_ns,
            trace_id=trace_id,
            span_id=span_id,
        )

    def getvalue(self) -> bytes:
        """The bytes of all of them."""
        return self._entry.SerializeToString(deterministic=True)


def open_commands() -> Commands:
    """No commands yet; the quicker kind where the core is compiled."""
    if compiled.is_compiled():
        from services.engine.wire import WireCommands

        return WireCommands(logged_command_bytes)
    return MessageCommands()


def logged_command_bytes(
    command: c.Command,
    events: Sequence[e.Event],
    command_seq: int,
    received_ns: int,
    trace_id: bytes,
    span_id: bytes,
) -> bytes:
    """One LoggedCommand."""
    commands = log_pb2.LogEntry()
    add_command(
        commands,
        command,
        events,
        command_seq=command_seq,
        received_ns=received_ns,
        trace_id=trace_id,
        span_id=span_id,
    )
    return commands.commands[0].SerializeToString(deterministic=True)


def encode_command(command: c.Command) -> log_pb2.LoggedCommand:
    """A command alone, without what the log says about it."""
    logged = log_pb2.LoggedCommand()
    _write_command(logged, command)
    return logged


def decode_command(logged: log_pb2.LoggedCommand) -> c.Command:
    """The command of a log entry. Raises `ValueError` for one this code does not know."""
    name = logged.WhichOneof("command")
    kind = _COMMAND_OF.get(name or "")
    if kind is None:
        raise ValueError(f"command {logged.command_seq} is of the unknown kind {name}")
    fields = _read(getattr(logged, str(name)), _COMMAND_FIELDS[kind])
    make: Callable[..., c.Command] = kind
    return make(account_id=logged.account_id, deadline_ns=logged.deadline_ns, **fields)


def add_events(logged: log_pb2.LoggedCommand, events: Iterable[e.Event]) -> None:
    """Append events to a logged command."""
    add = logged.events.add
    for event in events:
        kind = type(event)
        if kind is e.OrderPlaced:
            _write_placed(add().order_placed, event)
        elif kind is e.Trade:
            _write_trade(add().trade, event)
        elif kind is e.OrderClosed:
            _write_closed(add().order_closed, event)
        else:
            _write_fields(getattr(add(), _EVENTS[kind]), event, _EVENT_FIELDS[kind])


def decode_events(logged: log_pb2.LoggedCommand) -> list[e.Event]:
    """The events of a logged command. Raises `ValueError` for one this code does not know."""
    events: list[e.Event] = []
    for event in logged.events:
        name = event.WhichOneof("event")
        kind = _EVENT_OF.get(name or "")
        if kind is None:
            raise ValueError(f"an event of command {logged.command_seq} is of the kind {name}")
        events.append(kind(**_read(getattr(event, str(name)), _EVENT_FIELDS[kind])))
    return events


def _write_command(logged: log_pb2.LoggedCommand, command: c.Command) -> None:
    logged.account_id = command.account_id
    if command.deadline_ns:
        logged.deadline_ns = command.deadline_ns
    kind = type(command)
    if kind is c.PlaceOrder:
        _write_place_order(logged.place_order, command)
        return
    _write_fields(getattr(logged, _COMMANDS[kind]), command, _COMMAND_FIELDS[kind])


def _write_fields(message: Message, record: Record, names: Iterable[str]) -> None:
    # A record may have nothing but zeros.
    message.SetInParent()
    for name in names:
        value = getattr(record, name)
        if isinstance(value, tuple):
            for nested in value:
                _write_fields(getattr(message, name).add(), nested, _NESTED_FIELDS[type(nested)])
        elif isinstance(value, Record):
            _write_fields(getattr(message, name), value, _NESTED_FIELDS[type(value)])
        elif value:
            setattr(message, name, value)


# In the next four, `message` and the record are of the kind that the name says. They are not typed
# so because enum fields are given plain numbers, as records have them.


def _write_place_order(message: Any, command: Any) -> None:
    message.market_id = command.market_id
    message.side = command.side
    message.type = command.type
    if command.client_order_id:
        message.client_order_id = command.client_order_id
    if command.time_in_force:
        message.time_in_force = command.time_in_force
    if command.price_ticks:
        message.price_ticks = command.price_ticks
    if command.quantity_lots:
        message.quantity_lots = command.quantity_lots
    if command.quote_amount_units:
        message.quote_amount_units = command.quote_amount_units
    if command.post_only:
        message.post_only = True
    if command.reduce_only:
        message.reduce_only = True
    if command.display_quantity_lots:
        message.display_quantity_lots = command.display_quantity_lots
    if command.self_trade_prevention:
        message.self_trade_prevention = command.self_trade_prevention
    if command.max_slippage_bps:
        message.max_slippage_bps = command.max_slippage_bps
    if command.expire_ns:
        message.expire_ns = command.expire_ns
    if command.trigger_price_ticks:
        message.trigger_price_ticks = command.trigger_price_ticks
    if command.trigger_source:
        message.trigger_source = command.trigger_source
    if command.trailing_bps:
        message.trailing_bps = command.trailing_bps
    if command.stream_id:
        message.stream_id = command.stream_id


def _write_placed(message: Any, event: Any) -> None:
    message.order_id = event.order_id
    message.account_id = event.account_id
    message.market_id = event.market_id
    message.hold_asset_id = event.hold_asset_id
    message.hold_units = event.hold_units
    message.rested_lots = event.rested_lots
    message.price_ticks = event.price_ticks
    message.side = event.side
    message.quantity_lots = event.quantity_lots
    if event.trigger_price_ticks:
        message.trigger_price_ticks = event.trigger_price_ticks
    if event.oco_order_id:
        message.oco_order_id = event.oco_order_id


def _write_trade(message: Any, event: Any) -> None:
    message.trade_id = event.trade_id
    message.market_id = event.market_id
    message.price_ticks = event.price_ticks
    message.quantity_lots = event.quantity_lots
    message.taker_side = event.taker_side
    message.maker_order_id = event.maker_order_id
    message.maker_account_id = event.maker_account_id
    message.taker_order_id = event.taker_order_id
    message.taker_account_id = event.taker_account_id
    message.maker_fee_units = event.maker_fee_units
    message.taker_fee_units = event.taker_fee_units
    message.quote_hold_taken = event.quote_hold_taken
    message.notional_units = event.notional_units
    message.base_units = event.base_units


def _write_closed(message: Any, event: Any) -> None:
    message.order_id = event.order_id
    message.account_id = event.account_id
    message.market_id = event.market_id
    message.status = event.status
    message.reason = event.reason
    message.hold_released = event.hold_released
    message.remaining_lots = event.remaining_lots
    message.removed_lots = event.removed_lots
    message.price_ticks = event.price_ticks
    message.side = event.side
    message.hold_asset_id = event.hold_asset_id


def _read(message: Message, names: Iterable[str]) -> dict[str, Any]:
    return {name: _value(getattr(message, name)) for name in names}


def _value(value: Any) -> Any:
    if isinstance(value, (int, str)):
        return value
    if isinstance(value, Message):
        return _read_nested(value)
    return tuple(_read_nested(nested) for nested in value)


def _read_nested(message: Message) -> Record:
    kind = _NESTED[message.DESCRIPTOR.name]
    return kind(**_read(message, _NESTED_FIELDS[kind]))
