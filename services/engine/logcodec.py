"""Commands and events <-> the messages of log.proto.

Records and messages have the same field names by design, so one loop over the fields that are not
zero writes any of them; only the nested lists of a configuration need words of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from google.protobuf.message import Message
from tidebook.engine.v1 import log_pb2

from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain.record import Record, field_names

_COMMANDS: Final[dict[type[c.Command], str]] = {
    c.Configure: "configure",
    c.BeginEpoch: "begin_epoch",
    c.Transfer: "transfer",
    c.PlaceOrder: "place_order",
    c.CancelOrder: "cancel_order",
    c.CancelAll: "cancel_all",
    c.AmendOrder: "amend_order",
    c.SetMarketStatus: "set_market_status",
    c.Tick: "tick",
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
    e.TimePassed: "time_passed",
}
# Fields of LoggedCommand itself.
_OUTER: Final = ("account_id", "deadline_ns")


def _own_fields(kind: type[Record]) -> tuple[str, ...]:
    return tuple(name for name in field_names(kind) if name not in _OUTER)


_COMMAND_FIELDS: Final = {kind: _own_fields(kind) for kind in _COMMANDS}
_EVENT_FIELDS: Final = {kind: field_names(kind) for kind in _EVENTS}
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
    logged = entry.commands.add(
        command_seq=command_seq, received_ns=received_ns, trace_id=trace_id, span_id=span_id
    )
    _write_command(logged, command)
    add_events(logged, events)


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
    if kind is c.Configure:
        return _decode_configure(logged)
    command: c.Command = kind(**_read(getattr(logged, str(name)), _COMMAND_FIELDS[kind]))
    command.account_id = logged.account_id
    command.deadline_ns = logged.deadline_ns
    return command


def add_events(logged: log_pb2.LoggedCommand, events: Iterable[e.Event]) -> None:
    """Append events to a logged command."""
    add = logged.events.add
    for event in events:
        kind = type(event)
        message = getattr(add(), _EVENTS[kind])
        # An event may have nothing but zeros.
        message.SetInParent()
        for name in _EVENT_FIELDS[kind]:
            value = getattr(event, name)
            if value:
                setattr(message, name, value)


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
    message = getattr(logged, _COMMANDS[kind])
    message.SetInParent()
    if isinstance(command, c.Configure):
        for asset in command.assets:
            _write(message.assets.add(), asset)
        for market in command.markets:
            _write(message.markets.add(), market)
        return
    for name in _COMMAND_FIELDS[kind]:
        value = getattr(command, name)
        if value:
            setattr(message, name, value)


def _write(message: Message, record: Record) -> None:
    for name in field_names(type(record)):
        setattr(message, name, getattr(record, name))


def _read(message: Message, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


def _decode_configure(logged: log_pb2.LoggedCommand) -> c.Configure:
    message = logged.configure
    asset_names, market_names = field_names(c.AssetConfig), field_names(c.MarketConfig)
    return c.Configure(
        logged.account_id,
        tuple(c.AssetConfig(**_read(asset, asset_names)) for asset in message.assets),
        tuple(c.MarketConfig(**_read(market, market_names)) for market in message.markets),
        logged.deadline_ns,
    )
